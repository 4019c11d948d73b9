//go:build mage

package main

import (
	"context"
	"os"

	"github.com/magefile/mage/mg"

	"cc-base/tasks/build"
)

// Receipts judges what checks have said about the built image.
type Receipts mg.Namespace

// Verify refuses receipts that prove less than they say: -keys=FILE, -dir=DIR, -policy=FILE.
func (Receipts) Verify(ctx context.Context, keys, dir, policy *string) error {
	r := build.Receipts{Dir: text(dir), Keys: text(keys), Policy: text(policy)}
	return with(func(o build.Options) error { return build.VerifyReceipts(ctx, o, r, os.Stdout) })
}

// Report verifies receipts and makes out/VALIDATION.md of them: -keys=FILE, -dir=DIR, -policy=FILE.
func (Receipts) Report(ctx context.Context, keys, dir, policy *string) error {
	r := build.Receipts{Dir: text(dir), Keys: text(keys), Policy: text(policy)}
	return with(func(o build.Options) error { return build.ReportReceipts(ctx, o, r, os.Stdout) })
}

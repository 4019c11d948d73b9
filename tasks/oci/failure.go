package oci

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/url"
	"strings"

	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/errdef"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/errcode"

	"cc-base/tasks/fault"
	"cc-base/tasks/fetch"
)

// Failure gives an error of a registry its code. One that has a code, and one
// that the user has caused by ending the program, stay as they are.
func Failure(err error) error {
	if err == nil || fault.Of(err) != nil || errors.Is(err, context.Canceled) {
		return err
	}
	code := classify(err)
	if code == "" {
		return err
	}
	return fault.New(code, withoutQuery(err))
}

// Passing tells whether a failure may pass when the same is tried again.
func Passing(err error) bool {
	return !errors.Is(err, context.Canceled) && classify(err) == fault.RegistryUnreachable &&
		!errors.Is(err, errRedirects) && !errors.Is(err, errDowngrade)
}

func classify(err error) fault.Code {
	var reply *errcode.ErrorResponse
	if errors.As(err, &reply) {
		return ofStatus(reply.StatusCode)
	}
	if status := fetch.Status(err); status != 0 {
		return ofStatus(status)
	}
	var network net.Error
	var address *url.Error
	switch {
	case errors.Is(err, auth.ErrBasicCredentialNotFound):
		return fault.RegistryDenied
	case errors.Is(err, errdef.ErrNotFound):
		return fault.RegistryMissing
	case errors.Is(err, content.ErrMismatchedDigest), errors.Is(err, content.ErrTrailingData), errors.Is(err, content.ErrInvalidDescriptorSize):
		return fault.ReleaseWrong
	case errors.Is(err, errRedirects), errors.Is(err, errDowngrade), errors.Is(err, errStalled),
		errors.As(err, &network), errors.As(err, &address):
		return fault.RegistryUnreachable
	}
	return ""
}

func ofStatus(status int) fault.Code {
	switch {
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		return fault.RegistryDenied
	case status == http.StatusNotFound:
		return fault.RegistryMissing
	case status == http.StatusTooManyRequests, status == http.StatusRequestTimeout, status >= 500:
		return fault.RegistryUnreachable
	}
	return fault.RegistryRefused
}

// withoutQuery takes the query out of the address that an error names: where a
// registry keeps an upload, or hands out signed addresses, it is as good as a
// login for a while.
func withoutQuery(err error) error {
	var reply *errcode.ErrorResponse
	if errors.As(err, &reply) && reply.URL != nil {
		return hidden{err, reply.URL.RawQuery}
	}
	var address *url.Error
	if errors.As(err, &address) {
		if _, query, ok := strings.Cut(address.URL, "?"); ok {
			return hidden{err, query}
		}
	}
	return err
}

// hidden is an error without a secret in its text.
type hidden struct {
	error
	secret string
}

func (h hidden) Error() string {
	if h.secret == "" {
		return h.error.Error()
	}
	return strings.ReplaceAll(h.error.Error(), "?"+h.secret, "")
}

func (h hidden) Unwrap() error { return h.error }

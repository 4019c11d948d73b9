package oci

import (
	"net"
	"strings"

	"oras.land/oras-go/v2/registry"

	"cc-base/tasks/fault"
)

// Parse reads REGISTRY/REPO:TAG or REGISTRY/REPO@sha256:DIGEST; of a reference
// with both, the digest counts. A name without either is refused: "latest" would
// be a guess.
func Parse(text string) (registry.Reference, error) {
	const form = "REGISTRY/REPO:TAG, or with @sha256:DIGEST in place of :TAG"
	host, _, _ := strings.Cut(text, "/")
	if strings.Contains(host, "@") {
		// Not repeated here: it would end up in a log.
		return registry.Reference{}, fault.Newf(fault.RegistryReference, "the name of the release holds a user name or password").
			Hint("write %s; logins come from docker's config.json", form)
	}
	ref, err := registry.ParseReference(text)
	if err != nil {
		return registry.Reference{}, fault.Newf(fault.RegistryReference, "%q: %w", text, err).Hint("write %s, with no https:// before it", form)
	}
	if ref.Reference == "" {
		return registry.Reference{}, fault.Newf(fault.RegistryReference, "%q has neither tag nor digest", text).Hint("write %s", form)
	}
	return ref, nil
}

// ByDigest tells whether the reference names a digest, which nobody can move.
func ByDigest(ref registry.Reference) bool { return ref.ValidateReferenceAsDigest() == nil }

// PlainEnv names, in the environment, the one other machine (HOST:PORT) that may be
// talked to without TLS.
const PlainEnv = "CC_PLAIN_HTTP"

// allowPlain decides whether plain HTTP may be used: on this machine's own
// addresses nobody else listens; any other registry has to be named.
func allowPlain(ref registry.Reference, named string) error {
	host := ref.Host()
	if named != "" && named == host {
		return nil
	}
	name := host
	if h, _, err := net.SplitHostPort(host); err == nil {
		name = h
	}
	ip := net.ParseIP(strings.Trim(name, "[]"))
	if name == "localhost" || ip != nil && ip.IsLoopback() {
		return nil
	}
	return fault.Newf(fault.PlainHTTP, "%s is another machine, and plain HTTP is for registries on this one", host).
		Hint("%s=%s in the environment allows it for this registry", PlainEnv, host)
}

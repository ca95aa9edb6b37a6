package api

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"

	"skylift/controlplane/access"
	"skylift/controlplane/api/sms"
	"skylift/internal/problem"
)

// maxSkew is how far a request's time may be from ours, as at AWS.
const maxSkew = 15 * time.Minute

const amzDate = "20060102T150405Z"

// authenticate finds out who signed the request, whose body has been read.
//
// A session token is covered by the signature like every X-Amz header, and
// has no meaning beyond that: access keys here are long-lived.
func (h *Handler) authenticate(r *http.Request, body []byte) (Caller, error) {
	headers := r.Header.Values("Authorization")
	if len(headers) == 0 {
		return Caller{}, failure{sms.MissingAuthenticationToken, http.StatusForbidden,
			"the request is not signed; sign it with Signature Version 4 and an access key of this control plane"}
	}
	if len(headers) > 1 {
		return Caller{}, incomplete("there is more than one Authorization header")
	}
	a, err := parseAuthorization(headers[0])
	if err != nil {
		return Caller{}, incomplete(err.Error())
	}
	signed, err := h.timeOf(r, a)
	if err != nil {
		return Caller{}, err
	}
	if err := coverage(r, a); err != nil {
		return Caller{}, err
	}
	key, err := h.config.Keys.Lookup(r.Context(), a.keyID)
	if problem.Has(err, access.KeyNotFound) {
		return Caller{}, failure{sms.UnrecognizedClient, http.StatusForbidden,
			"there is no access key " + a.keyID + " at this control plane; it needs one of Skylift's own, not one of AWS"}
	}
	if err != nil {
		return Caller{}, fmt.Errorf("look up access key %s: %w", a.keyID, err)
	}
	want, err := resign(r, a, key, signed, body)
	if err != nil {
		return Caller{}, err
	}
	if !hmac.Equal([]byte(want), []byte(a.signature)) {
		return Caller{}, failure{sms.SignatureDoesNotMatch, http.StatusForbidden,
			"the signature of access key " + a.keyID + " does not match the request; check the secret access key, " +
				"and that no proxy in between changes the path, the Host header or the body"}
	}
	return Caller{KeyID: a.keyID, Role: key.Role, Region: a.region}, nil
}

// timeOf returns when the request was signed, if that and the scope are right.
func (h *Handler) timeOf(r *http.Request, a authorization) (time.Time, error) {
	dates := r.Header.Values("X-Amz-Date")
	if len(dates) != 1 {
		return time.Time{}, incomplete("the request must have one X-Amz-Date header")
	}
	signed, err := time.Parse(amzDate, dates[0])
	if err != nil {
		return time.Time{}, incomplete("the X-Amz-Date header must have the form " + amzDate)
	}
	if !strings.HasPrefix(dates[0], a.date) {
		return time.Time{}, badSignature("the date in the credential's scope is not that of X-Amz-Date")
	}
	if a.service != sms.Service {
		return time.Time{}, badSignature("the credential's scope names the service " + a.service + "; it must be " + sms.Service)
	}
	now := h.config.Now().UTC()
	if skew := now.Sub(signed).Abs(); skew > maxSkew {
		return time.Time{}, badSignature(fmt.Sprintf(
			"the request was signed at %s and the control plane's clock says %s: more than %.0f minutes apart; set the clock that is wrong",
			signed.Format(time.RFC3339), now.Format(time.RFC3339), maxSkew.Minutes()))
	}
	return signed, nil
}

// coverage makes sure that all which gives the request its meaning is signed.
func coverage(r *http.Request, a authorization) error {
	if !a.signs("host") {
		return badSignature("the Host header must be signed")
	}
	for name := range r.Header {
		lower := strings.ToLower(name)
		if strings.HasPrefix(lower, "x-amz-") && !a.signs(lower) {
			return badSignature("the header " + lower + " must be signed, as all X-Amz headers")
		}
	}
	return nil
}

// resign gives the signature that the request must have.
func resign(r *http.Request, a authorization, key access.Key, signed time.Time, body []byte) (string, error) {
	target, err := url.ParseRequestURI(r.RequestURI) // r.URL may have lost a prefix to the mux
	if err != nil {
		return "", incomplete("the request's path cannot be read")
	}
	again := &http.Request{Method: r.Method, URL: target, Host: r.Host, Header: make(http.Header)}
	for _, name := range a.headers {
		switch name {
		case "host":
		case "content-length":
			again.ContentLength = int64(len(body))
		default:
			if values := r.Header.Values(name); len(values) > 0 {
				again.Header[http.CanonicalHeaderKey(name)] = slices.Clone(values) // the signer writes into it
			}
		}
	}
	sum := sha256.Sum256(body)
	payload := hex.EncodeToString(sum[:])
	if given := r.Header.Values("X-Amz-Content-Sha256"); len(given) > 0 && !slices.Equal(given, []string{payload}) {
		return "", badSignature("the X-Amz-Content-Sha256 header is not the SHA-256 of the body")
	}
	// A signer of its own: one that is shared keeps derived keys by Region and
	// service, which strangers choose, and does not notice a new secret.
	credentials := aws.Credentials{AccessKeyID: a.keyID, SecretAccessKey: key.Secret.Reveal()}
	if err := v4.NewSigner().SignHTTP(context.Background(), credentials, again, payload, a.service, a.region, signed); err != nil {
		return "", fmt.Errorf("sign the request again: %w", err)
	}
	own, err := parseAuthorization(again.Header.Get("Authorization"))
	if err != nil {
		return "", fmt.Errorf("sign the request again: %w", err)
	}
	return own.signature, nil
}

func incomplete(message string) error {
	return failure{sms.IncompleteSignature, http.StatusForbidden, message}
}

func badSignature(message string) error {
	return failure{sms.InvalidSignature, http.StatusForbidden, message}
}

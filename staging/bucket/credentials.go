package bucket

import (
	"context"
	"sync"

	"github.com/aws/aws-sdk-go-v2/aws"
)

// renewable caches credentials until they expire or the server says that they
// have, which it may do first: its clock is not ours, and sessions are revoked.
type renewable struct {
	cache *aws.CredentialsCache

	mu         sync.Mutex
	generation uint64
}

func newRenewable(p aws.CredentialsProvider) *renewable {
	cache, ok := p.(*aws.CredentialsCache)
	if !ok {
		cache = aws.NewCredentialsCache(p)
	}
	return &renewable{cache: cache}
}

// Retrieve implements aws.CredentialsProvider.
func (r *renewable) Retrieve(ctx context.Context) (aws.Credentials, error) {
	c, err := r.cache.Retrieve(ctx)
	if err != nil {
		return c, &credentialsError{err}
	}
	return c, nil
}

// current names the credentials that an operation begins with.
func (r *renewable) current() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.generation
}

// expired drops the credentials of a generation. When many operations fail
// together, only the first of them has them fetched anew.
func (r *renewable) expired(generation uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.generation == generation {
		r.generation++
		r.cache.Invalidate()
	}
}

// credentialsError marks a request that was not made for want of credentials.
type credentialsError struct{ err error }

func (e *credentialsError) Error() string { return e.err.Error() }
func (e *credentialsError) Unwrap() error { return e.err }

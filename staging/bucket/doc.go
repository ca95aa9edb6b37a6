// Package bucket is the one staging.Store: an Amazon S3 bucket, or one of a
// server that speaks its protocol.
//
// Every Put is one PutObject over TLS with a CRC-32C in its header, computed
// once; the payload is neither signed nor chunked. Readers resume where a
// stream broke. Each operation (a whole Put, Create or Get with its reader; a
// page of a List; a batch of a Delete) has one budget of attempts and time.
// The SDK's own retries are off, since the store must know what an earlier
// attempt may have done: a 412 after a lost answer is not a conflict, and a
// reader goes on at its offset.
//
// Transports are the caller's. A watchdog that gives up when no bytes flow
// belongs there, since an attempt has no time limit of its own: a segment may
// be large and a line slow. As many idle connections per host as there are
// workers should be kept (http.Transport.MaxIdleConnsPerHost; the default of
// 2, or 10 with the SDK's client, makes the others shake hands for every
// segment), and with ExpectContinueTimeout set a refusal arrives before the
// body is sent. The client must not follow redirects.
//
// What a server can do beyond the least is found by Probe and given to With or
// in Config; a Store that was told nothing takes it that writes cannot be
// conditional.
package bucket

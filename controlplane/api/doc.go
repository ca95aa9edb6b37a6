// Package api serves the SMS API: JSON 1.1 over HTTP, signed with AWS
// Signature Version 4, so that the AWS CLI and every SDK that still has SMS
// work against it.
//
// A request passes, in this order: its size, its signature (sigv4.go), its
// action and the caller's role (api.go), its form against the embedded model
// (decode.go), its parameters (validate.go, ids.go), the domain's service
// (catalog.go, replication.go, readiness.go). What goes wrong on the way becomes an error
// that the model lists for the action, or else one of those which any AWS
// service may answer with (errors.go). Every request is logged once.
//
// Five actions are Skylift's own: CheckServer, GetServerReadiness,
// EnableChangeTracking, CheckSource and GetSourceReadiness. They are in the
// extended model only.
//
// The Region in a signature's scope is not checked here: it selects the
// target, and CallerFrom gives it to whoever needs it.
package api

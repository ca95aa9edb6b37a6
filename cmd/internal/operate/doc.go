// Package operate has the commands that talk to a control plane through its
// API: what stands in the way of a server's replication, and how runs are
// getting on.
//
// They take their settings from where the AWS CLI has them: credentials, the
// Region and the certificates to trust (AWS_CA_BUNDLE) as every AWS client
// does, and the control plane's address from AWS_ENDPOINT_URL_SMS or
// AWS_ENDPOINT_URL.
package operate

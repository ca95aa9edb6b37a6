// Package config holds the settings of each daemon: one documented struct
// each, filled from a YAML file, from the environment and from flags, in
// ascending order of precedence, and validated as a whole before anything is
// done with it.
//
// A setting's name in the file is its mapstructure tag; in the environment it
// is SKYLIFT_ and the path in upper case with underscores:
// control-plane.url is SKYLIFT_CONTROL_PLANE_URL. Secrets are never settings:
// a setting names the file that holds one, so that none stands in a process
// list, an environment or a log.
package config

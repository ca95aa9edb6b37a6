// Package need states what a test needs of the machine: a real program to
// test against, for the most part. A missing one skips the test with a line,
// and fails it where SKYLIFT_REQUIRE_ALL=1 says that everything is installed.
package need

import (
	"os"
	"os/exec"
	"testing"
)

// Program returns the path of the first of names found on PATH or in the
// system's administration directories, which an ordinary user's PATH omits.
func Program(t testing.TB, names ...string) string {
	t.Helper()
	for _, name := range names {
		for _, candidate := range []string{name, "/usr/bin/" + name, "/usr/sbin/" + name, "/sbin/" + name} {
			if path, err := exec.LookPath(candidate); err == nil {
				return path
			}
		}
	}
	Missing(t, "none of the programs %q is installed; run 'make deps'", names)
	return ""
}

// Missing skips the test, or fails it where everything must be there.
func Missing(t testing.TB, format string, args ...any) {
	t.Helper()
	if os.Getenv("SKYLIFT_REQUIRE_ALL") == "1" {
		t.Fatalf(format, args...)
	}
	t.Skipf(format, args...)
}

package sourcetest

import "testing"

// Part is the named part of the suite; nil if there is none.
func Part(name string) func(testing.TB, Platform) {
	for _, part := range parts {
		if part.name == name {
			return part.test
		}
	}
	return nil
}

package access

import "testing"

func FuzzActivationCode(f *testing.F) {
	f.Add("ABCDEFGH-ABCDEFGH-ABCDEFGH")
	f.Add("é-")
	f.Fuzz(func(t *testing.T, code string) {
		if id, rest, ok := splitCode(code); ok && (len(id) != 8 || len(rest) != 16) {
			t.Errorf("%q: ID %q, rest %q", code, id, rest)
		}
	})
}

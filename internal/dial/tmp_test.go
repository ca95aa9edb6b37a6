package dial
import ("testing";"io")
func wantRead(t testing.TB, r io.Reader, want string) { t.Helper(); p := make([]byte, len(want)); if _, err := io.ReadFull(r, p); err != nil || string(p) != want { t.Errorf("read %q, %v; want %q", p, err, want) } }

package dial

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
)

// Numbers of RFC 1928 and RFC 1929.
const (
	socksVersion      = 5
	socksNoAuth       = 0
	socksPassword     = 2
	socksNoMethod     = 0xff
	socksAuthVersion  = 1
	socksConnect      = 1
	socksIPv4         = 1
	socksName         = 3
	socksIPv6         = 4
	socksDenied       = 2
	socksNoCommand    = 7
	socksNoSuchFamily = 8
)

// socksReplies are the words for the reply field of RFC 1928, section 6.
var socksReplies = map[byte]string{
	1: "general failure",
	2: "not allowed by its rules",
	3: "network unreachable",
	4: "host unreachable",
	5: "connection refused",
	6: "time to live expired",
	7: "command not supported",
	8: "address type not supported",
}

// socks asks a SOCKS5 proxy for a tunnel to addr. It reads exactly the
// proxy's answers, so that the connection goes on as the destination's.
func (d *dialer) socks(conn net.Conn, addr string) error {
	request, err := socksRequest(addr)
	if err != nil {
		return ProxyRefused.New(err, "ask proxy %s for %s", d.proxy, addr)
	}
	method, err := d.socksMethod(conn)
	if err != nil {
		return ProxyProtocol.New(err, "greet proxy %s", d.proxy)
	}
	switch {
	case method == socksNoAuth:
	case method == socksPassword && d.user != "":
		if err := d.socksAuthenticate(conn); err != nil {
			return ProxyAuthRejected.New(err, "log in to proxy %s as user %q", d.proxy, d.user)
		}
	case method == socksNoMethod && d.user == "":
		return ProxyAuthRequired.New(errors.New("it does not serve without authentication"), "greet proxy %s", d.proxy)
	case method == socksNoMethod:
		return ProxyAuthUnsupported.New(errors.New("it accepts neither a password nor none"), "greet proxy %s", d.proxy)
	default:
		return ProxyProtocol.New(fmt.Errorf("it chose method %d, which was not offered", method), "greet proxy %s", d.proxy)
	}
	return d.socksConnect(conn, addr, request)
}

// socksMethod offers the methods at hand and returns the one chosen.
func (d *dialer) socksMethod(conn net.Conn) (byte, error) {
	greeting := []byte{socksVersion, 1, socksNoAuth}
	if d.user != "" {
		greeting = []byte{socksVersion, 2, socksNoAuth, socksPassword}
	}
	var choice [2]byte
	if err := ask(conn, greeting, choice[:]); err != nil {
		return 0, err
	}
	if choice[0] != socksVersion {
		return 0, fmt.Errorf("its answer begins with %#02x, not with version 5", choice[0])
	}
	return choice[1], nil
}

// socksAuthenticate sends user and password (RFC 1929). Some proxies close
// the connection instead of saying no.
func (d *dialer) socksAuthenticate(conn net.Conn) error {
	password := d.password.Reveal()
	request := append([]byte{socksAuthVersion, byte(len(d.user))}, d.user...)
	request = append(append(request, byte(len(password))), password...)
	var status [2]byte
	if err := ask(conn, request, status[:]); err != nil {
		return err
	}
	if status[1] != 0 {
		return fmt.Errorf("it answered status %d", status[1])
	}
	return nil
}

// socksConnect sends the request proper. The address that the proxy is bound
// to is read and dropped.
func (d *dialer) socksConnect(conn net.Conn, addr string, request []byte) error {
	var reply [4]byte
	if err := ask(conn, request, reply[:]); err != nil {
		return ProxyDestination.New(err, "no answer from proxy %s for %s", d.proxy, addr)
	}
	if reply[0] != socksVersion {
		return ProxyProtocol.New(fmt.Errorf("its answer begins with %#02x, not with version 5", reply[0]), "ask proxy %s for %s", d.proxy, addr)
	}
	if reply[1] != 0 {
		return d.socksRefusal(reply[1], addr)
	}
	if err := skipAddress(conn, reply[3]); err != nil {
		return ProxyProtocol.New(err, "ask proxy %s for %s", d.proxy, addr)
	}
	return nil
}

func (d *dialer) socksRefusal(code byte, addr string) error {
	word, known := socksReplies[code]
	if !known {
		word = "unknown"
	}
	kind := ProxyDestination
	if code == socksDenied || code == socksNoCommand || code == socksNoSuchFamily {
		kind = ProxyRefused
	}
	return kind.New(fmt.Errorf("it answered %q (%d)", word, code), "ask proxy %s for %s", d.proxy, addr)
}

// skipAddress reads an address of type kind and its port.
func skipAddress(conn net.Conn, kind byte) error {
	var buf [255 + 2]byte
	size := 0
	switch kind {
	case socksIPv4:
		size = net.IPv4len
	case socksIPv6:
		size = net.IPv6len
	case socksName:
		if _, err := io.ReadFull(conn, buf[:1]); err != nil {
			return err
		}
		size = int(buf[0])
	default:
		return fmt.Errorf("its answer has an address of unknown type %d", kind)
	}
	_, err := io.ReadFull(conn, buf[:size+2])
	return err
}

// ask sends a message and fills answer.
func ask(conn net.Conn, message, answer []byte) error {
	if _, err := conn.Write(message); err != nil {
		return err
	}
	_, err := io.ReadFull(conn, answer)
	return err
}

// socksRequest encodes CONNECT addr. A name goes as it is: the proxy resolves it.
func socksRequest(addr string) ([]byte, error) {
	host, portText, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil {
		return nil, err
	}
	request := []byte{socksVersion, socksConnect, 0}
	ip, err := netip.ParseAddr(host)
	ip = ip.Unmap()
	switch {
	case err == nil && ip.Is4():
		request = append(append(request, socksIPv4), ip.AsSlice()...)
	case err == nil:
		request = append(append(request, socksIPv6), ip.AsSlice()...)
	case host == "" || len(host) > 255:
		return nil, errors.New("the host's name does not have 1 to 255 bytes")
	default:
		request = append(append(request, socksName, byte(len(host))), host...)
	}
	return append(request, byte(port>>8), byte(port)), nil
}

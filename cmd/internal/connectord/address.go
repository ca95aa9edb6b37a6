package connectord

import (
	"net"
	"net/url"
)

// hostOf returns the host in a URL, for people.
func hostOf(raw string) string {
	if u, err := url.Parse(raw); err == nil && u.Host != "" {
		return u.Host
	}
	return raw
}

// address returns the local IP and MAC address used towards the URL's host;
// empty where they cannot be told. They are shown to people only.
func address(raw string) (ip, mac string) {
	u, err := url.Parse(raw)
	if err != nil {
		return "", ""
	}
	port := u.Port()
	if port == "" {
		port = "443"
	}
	// A UDP "connection" sends nothing; it only asks the system for a route.
	conn, err := net.Dial("udp", net.JoinHostPort(u.Hostname(), port))
	if err != nil {
		return "", ""
	}
	defer conn.Close()
	local, ok := conn.LocalAddr().(*net.UDPAddr)
	if !ok {
		return "", ""
	}
	return local.IP.String(), macOf(local.IP)
}

func macOf(ip net.IP) string {
	interfaces, err := net.Interfaces()
	if err != nil {
		return ""
	}
	for _, i := range interfaces {
		addresses, err := i.Addrs()
		if err != nil {
			continue
		}
		for _, a := range addresses {
			if n, ok := a.(*net.IPNet); ok && n.IP.Equal(ip) {
				return i.HardwareAddr.String()
			}
		}
	}
	return ""
}

package natsconf

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
)

// certificate writes what a file names under /etc/nats: an authority and a
// certificate of it for 127.0.0.1.
func certificate(t *testing.T, dir string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage:    x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	require.NoError(t, err)
	private, err := x509.MarshalECPrivateKey(key)
	require.NoError(t, err)
	for name, block := range map[string]*pem.Block{
		"cert.pem": {Type: "CERTIFICATE", Bytes: der}, "ca.pem": {Type: "CERTIFICATE", Bytes: der}, "key.pem": {Type: "EC PRIVATE KEY", Bytes: private},
	} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600))
	}
}

var commented = regexp.MustCompile(`(?m)^# (tls \{|cluster \{|  tls \{|  routes:)`)

// startNode runs a file with its blocks tls and cluster, which are comments
// there, as the n-th server of a cluster.
func startNode(t *testing.T, file, certificates string, n int, ports []int) *server.Server {
	t.Helper()
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Len(t, commented.FindAll(text, -1), 4)
	changed := strings.ReplaceAll(commented.ReplaceAllString(string(text), "$1"), "/etc/nats", certificates)
	changed = strings.Replace(changed, "0.0.0.0:6222", fmt.Sprintf("127.0.0.1:%d", ports[n]), 1)
	for i, port := range ports[:3] {
		changed = strings.Replace(changed, fmt.Sprintf("nats://n%d:6222", i+1), fmt.Sprintf("nats://127.0.0.1:%d", port), 1)
	}
	path := filepath.Join(t.TempDir(), "nats.conf")
	require.NoError(t, os.WriteFile(path, []byte(changed), 0o600))
	setenv(t)
	t.Setenv("NATS_SERVER_NAME", fmt.Sprintf("n%d", n+1))
	options, err := server.ProcessConfigFile(path)
	require.NoError(t, err)
	options.Host, options.Port, options.HTTPHost, options.HTTPPort = "127.0.0.1", -1, "127.0.0.1", -1
	options.NoSigs, options.NoLog = true, true
	s, err := server.NewServer(options)
	require.NoError(t, err)
	go s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	return s
}

// TestServersOfAClusterTrustOnlyTheirAuthority runs three servers whose
// connections with clients and with each other are encrypted, and a fourth whose
// certificate is another authority's.
func TestServersOfAClusterTrustOnlyTheirAuthority(t *testing.T) {
	for _, file := range []string{accounts, users} {
		t.Run(filepath.Base(file), func(t *testing.T) {
			if file == users && os.Getenv("PROCESSOR_SLOW") == "" {
				t.Skip("PROCESSOR_SLOW=1 tries both files")
			}
			ports := make([]int, 4)
			for i := range ports {
				l, err := net.Listen("tcp", "127.0.0.1:0")
				require.NoError(t, err)
				ports[i] = l.Addr().(*net.TCPAddr).Port
				require.NoError(t, l.Close())
			}
			dir, strange := t.TempDir(), t.TempDir()
			certificate(t, dir)
			certificate(t, strange)
			var nodes []*server.Server
			for n := range 3 {
				nodes = append(nodes, startNode(t, file, dir, n, ports))
			}
			for _, s := range nodes {
				require.True(t, s.ReadyForConnections(30*time.Second))
			}
			stranger := startNode(t, file, strange, 3, ports)

			url := nodes[0].ClientURL()
			_, err := nats.Connect(url, nats.UserInfo("processor", password("processor")), nats.RootCAs(filepath.Join(strange, "ca.pem")))
			require.ErrorAs(t, err, new(x509.UnknownAuthorityError), "a client knows its server by its certificate")
			nc, err := nats.Connect(url, nats.UserInfo("processor", password("processor")), nats.RootCAs(filepath.Join(dir, "ca.pem")))
			require.NoError(t, err)
			defer nc.Close()
			require.True(t, nc.TLSRequired())
			js, err := jetstream.New(nc)
			require.NoError(t, err)
			require.Eventually(t, func() bool {
				_, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: names.Requests(), Subjects: []string{names.Request("*")}, Replicas: 3})
				return err == nil
			}, 30*time.Second, 100*time.Millisecond, "three servers found each other")
			_, err = js.Publish(t.Context(), names.Request("acme"), []byte("{}"))
			require.NoError(t, err)
			require.Zero(t, stranger.NumRoutes())
			for _, s := range nodes {
				require.Len(t, peers(s), 2, "the stranger is no part of it")
			}
		})
	}
}

// peers gives the servers that a server has routes to.
func peers(s *server.Server) map[string]bool {
	found := map[string]bool{}
	if z, err := s.Routez(nil); err == nil {
		for _, r := range z.Routes {
			found[r.RemoteName] = true
		}
	}
	return found
}

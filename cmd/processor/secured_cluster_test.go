package main

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/stretchr/testify/require"
)

var commentedCluster = regexp.MustCompile(`(?ms)^# (cluster \{.*?routes: \[[^\]]*\] \})$`)

// clusterSection is what nats.conf shows of a cluster, with a test's files and addresses.
func clusterSection(t *testing.T, ca, cert, key string, listen int, routes []string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "nats.conf"))
	require.NoError(t, err)
	found := commentedCluster.FindSubmatch(text)
	require.NotNil(t, found, "nats.conf shows how servers of a cluster are connected")
	section := strings.ReplaceAll(string(found[1]), "\n# ", "\n")
	for of, by := range map[string]string{
		"/etc/nats/cert.pem": cert, "/etc/nats/key.pem": key, "/etc/nats/ca.pem": ca, "0.0.0.0:6222": fmt.Sprintf("127.0.0.1:%d", listen),
	} {
		require.Contains(t, section, of)
		section = strings.ReplaceAll(section, of, by)
	}
	return regexp.MustCompile(`routes: \[[^\]]*\]`).ReplaceAllLiteralString(section, `routes: ["`+strings.Join(routes, `", "`)+`"]`)
}

func clusterServer(t *testing.T, name, section string) *server.Server {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, "nats.conf")
	require.NoError(t, os.WriteFile(path, fmt.Appendf(nil, "server_name: %s\nlisten: \"127.0.0.1:-1\"\njetstream { store_dir: %q, max_file_store: 1PB, max_memory_store: 1GB }\n%s\n", name, dir, section), 0o600))
	options, err := server.ProcessConfigFile(path)
	require.NoError(t, err)
	options.NoSigs, options.NoLog = true, true
	s, err := server.NewServer(options)
	require.NoError(t, err)
	go s.Start()
	require.True(t, s.ReadyForConnections(30*time.Second))
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	return s
}

// The servers of a cluster speak to each other as nats.conf shows it: encrypted,
// each with a certificate of their authority. One of another authority stays out.
func TestServersOfAClusterAreEncrypted(t *testing.T) {
	t.Parallel()
	if os.Getenv("PROCESSOR_SLOW") == "" {
		t.Skip("PROCESSOR_SLOW=1 starts a cluster")
	}
	var ports []int
	var routes []string
	for range 4 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
		require.NoError(t, l.Close())
	}
	for _, port := range ports[:3] {
		routes = append(routes, fmt.Sprintf("nats://127.0.0.1:%d", port))
	}
	ours, theirs := newAuthority(t), newAuthority(t)
	var servers []*server.Server
	for i := range 3 {
		cert, key := ours.issue(t, fmt.Sprint("n", i))
		servers = append(servers, clusterServer(t, fmt.Sprint("n", i), clusterSection(t, filepath.Join(ours.dir, "ca.pem"), cert, key, ports[i], routes)))
	}
	cert, key := theirs.issue(t, "stranger")
	stranger := clusterServer(t, "stranger", clusterSection(t, filepath.Join(theirs.dir, "ca.pem"), cert, key, ports[3], routes))

	text := fmt.Sprintf("nats: {url: %q}\nstreams: {archive: {enabled: false}}\n", servers[0].ClientURL())
	command := configured(t, text)
	require.Eventually(t, func() bool { return servers[0].JetStreamIsCurrent() }, 60*time.Second, 50*time.Millisecond)
	status, stdout, stderr := command("provision", "--replicas", "3")
	require.Zero(t, status, stdout+stderr)
	defer serving(t, text)()
	status, stdout, stderr = command("ask", "What is secured?")
	require.Zero(t, status, stdout+stderr)
	for _, s := range servers {
		routez, err := s.Routez(&server.RoutezOptions{})
		require.NoError(t, err)
		seen := map[string]bool{}
		for _, r := range routez.Routes {
			seen[r.RemoteName] = true
		}
		require.Len(t, seen, 2, "the two others, and no stranger")
	}
	require.Zero(t, stranger.NumRoutes())
}

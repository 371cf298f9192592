package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nkeys"
	"github.com/stretchr/testify/require"
)

// authority signs certificates of a test.
type authority struct {
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{dir: t.TempDir()}
	var err error
	a.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &a.key.PublicKey, a.key)
	require.NoError(t, err)
	a.cert, err = x509.ParseCertificate(der)
	require.NoError(t, err)
	a.write(t, "ca.pem", "CERTIFICATE", der)
	return a
}

func (a *authority) write(t *testing.T, name, kind string, der []byte) string {
	t.Helper()
	path := filepath.Join(a.dir, name)
	require.NoError(t, os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600))
	return path
}

// issue makes a certificate for 127.0.0.1 and gives its files.
func (a *authority) issue(t *testing.T, name string) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &private.PublicKey, a.key)
	require.NoError(t, err)
	text, err := x509.MarshalECPrivateKey(private)
	require.NoError(t, err)
	return a.write(t, name+".pem", "CERTIFICATE", der), a.write(t, name+".key", "EC PRIVATE KEY", text)
}

// serve runs a server until the test ends.
func serve(t *testing.T, options *server.Options) *server.Server {
	t.Helper()
	options.Host, options.Port, options.NoSigs, options.NoLog = "127.0.0.1", -1, true, true
	options.JetStream, options.StoreDir, options.JetStreamMaxStore, options.JetStreamMaxMemory = true, t.TempDir(), 1<<50, 1<<30
	s, err := server.NewServer(options)
	require.NoError(t, err)
	go s.Start()
	require.True(t, s.ReadyForConnections(30*time.Second))
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	return s
}

// tlsServer runs one that takes encrypted connections with a client's
// certificate only.
func tlsServer(t *testing.T, a *authority, options *server.Options) *server.Server {
	t.Helper()
	cert, key := a.issue(t, "server")
	pair, err := tls.LoadX509KeyPair(cert, key)
	require.NoError(t, err)
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	options.TLSConfig = &tls.Config{Certificates: []tls.Certificate{pair}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: tls.VersionTLS12}
	options.TLSVerify, options.TLSTimeout = true, 10
	return serve(t, options)
}

// configured writes a configuration and gives a function that runs commands with it.
func configured(t *testing.T, text string) func(args ...string) (status int, stdout, stderr string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "processor.yaml")
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	return func(args ...string) (int, string, string) {
		var out, errs bytes.Buffer
		ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
		defer cancel()
		status := run(ctx, append([]string{"--config", path}, args...), strings.NewReader(""), &out, &errs)
		return status, out.String(), errs.String()
	}
}

// Every command reaches a server that wants encryption, a client's certificate
// and an nkey; without one of them none does, and says what to do.
func TestCommandsUseTLSAndAnNKey(t *testing.T) {
	t.Parallel()
	user, err := nkeys.CreateUser()
	require.NoError(t, err)
	public, err := user.PublicKey()
	require.NoError(t, err)
	seed, err := user.Seed()
	require.NoError(t, err)
	a := newAuthority(t)
	s := tlsServer(t, a, &server.Options{Nkeys: []*server.NkeyUser{{Nkey: public}}})
	nkey := filepath.Join(a.dir, "user.nk")
	require.NoError(t, os.WriteFile(nkey, seed, 0o600))
	cert, key := a.issue(t, "client")
	nats := fmt.Sprintf("nats: {url: %q, nkey: %q, tls: {ca: %q, cert: %q, key: %q}}\nstreams: {archive: {enabled: false}}\n", s.ClientURL(), nkey, filepath.Join(a.dir, "ca.pem"), cert, key)

	command := configured(t, nats)
	status, stdout, stderr := command("provision")
	require.Zero(t, status, stderr)
	require.Contains(t, stdout, "LLM_REQUESTS")
	stop := serving(t, nats)
	defer stop()
	for _, args := range [][]string{
		{"ask", "What is secured?"}, {"dead", "list"}, {"budget", "list"}, {"cache", "stats"}, {"template", "list"}, {"models"},
		{"tenant", "erase", "acme"}, {"doctor"},
	} {
		status, stdout, stderr := command(args...)
		require.Zero(t, status, "%v: %s%s", args, stdout, stderr)
		require.NotContains(t, stdout+stderr, string(seed))
	}
	_, stdout, _ = command("doctor")
	require.Contains(t, stdout, ", encrypted,")

	for name, c := range map[string]struct{ without, try string }{
		"an unknown authority":  {strings.Replace(nats, filepath.Join(a.dir, "ca.pem"), cert, 1), "nats.tls"},
		"no client certificate": {strings.Replace(nats, fmt.Sprintf(", cert: %q, key: %q", cert, key), "", 1), "nats.tls"},
		"no nkey":               {strings.Replace(nats, fmt.Sprintf("nkey: %q, ", nkey), "", 1), "nats.nkey"},
	} {
		status, stdout, stderr := configured(t, c.without)("doctor")
		require.Equal(t, 1, status, "%s: %s%s", name, stdout, stderr)
		require.Contains(t, stdout, c.try, name)
		require.NotContains(t, stdout+stderr, string(seed))
	}
}

// awaited collects what is written until a text has come.
type awaited struct {
	text  string
	found chan struct{}

	mu     sync.Mutex
	got    strings.Builder
	closed bool
}

func (w *awaited) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.got.Write(p)
	if !w.closed && strings.Contains(w.got.String(), w.text) {
		w.closed = true
		close(w.found)
	}
	return len(p), nil
}

func (w *awaited) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.got.String()
}

// serving runs the processor with a configuration until stop is called.
func serving(t *testing.T, text string) (stop func()) {
	t.Helper()
	return servingTo(t, text, &awaited{text: "metrics on", found: make(chan struct{})})
}

// servingTo is serving with what it writes.
func servingTo(t *testing.T, text string, to *awaited) (stop func()) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "processor.yaml")
	require.NoError(t, os.WriteFile(path, []byte(text+"http: {addr: 127.0.0.1:0}\n"), 0o600))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan int, 1)
	go func() { done <- run(ctx, []string{"--config", path, "run"}, strings.NewReader(""), to, to) }()
	select {
	case <-to.found:
	case status := <-done:
		require.Fail(t, "it ended", "status %d: %s", status, to.String())
	case <-time.After(30 * time.Second):
		require.Fail(t, "it did not start", to.String())
	}
	return func() { cancel(); <-done }
}

// A file of credentials, as nsc makes them, is a user of a server that knows
// accounts by tokens only.
func TestCommandsUseACredentialsFile(t *testing.T) {
	t.Parallel()
	operator, err := nkeys.CreateOperator()
	require.NoError(t, err)
	account, err := nkeys.CreateAccount()
	require.NoError(t, err)
	user, err := nkeys.CreateUser()
	require.NoError(t, err)
	operatorKey, _ := operator.PublicKey()
	accountKey, _ := account.PublicKey()
	userKey, _ := user.PublicKey()

	claims := jwt.NewAccountClaims(accountKey)
	claims.Limits.JetStreamLimits = jwt.JetStreamLimits{MemoryStorage: -1, DiskStorage: -1, Streams: -1, Consumer: -1}
	accountToken, err := claims.Encode(operator)
	require.NoError(t, err)
	userToken, err := jwt.NewUserClaims(userKey).Encode(account)
	require.NoError(t, err)
	seed, err := user.Seed()
	require.NoError(t, err)
	creds, err := jwt.FormatUserConfig(userToken, seed)
	require.NoError(t, err)
	file := filepath.Join(t.TempDir(), "user.creds")
	require.NoError(t, os.WriteFile(file, creds, 0o600))

	system, err := nkeys.CreateAccount()
	require.NoError(t, err)
	systemKey, _ := system.PublicKey()
	systemToken, err := jwt.NewAccountClaims(systemKey).Encode(operator)
	require.NoError(t, err)
	resolver := &server.MemAccResolver{}
	require.NoError(t, resolver.Store(accountKey, accountToken))
	require.NoError(t, resolver.Store(systemKey, systemToken))
	s := serve(t, &server.Options{TrustedKeys: []string{operatorKey}, AccountResolver: resolver, SystemAccount: systemKey})
	command := configured(t, fmt.Sprintf("nats: {url: %q, creds: %q}\nstreams: {archive: {enabled: false}}\n", s.ClientURL(), file))
	status, stdout, stderr := command("provision")
	require.Zero(t, status, stderr)
	require.Contains(t, stdout, "LLM_REQUESTS")
	status, stdout, stderr = command("doctor")
	require.Zero(t, status, stdout+stderr)
	require.NotContains(t, stdout+stderr, string(seed))

	status, stdout, _ = configured(t, fmt.Sprintf("nats: {url: %q}\n", s.ClientURL()))("doctor")
	require.Equal(t, 1, status)
	require.Contains(t, stdout, "check nats.creds")
}

// production runs a file of the repository with two tenants, and the processor on it.
func production(t *testing.T, file string) *server.Server {
	t.Helper()
	t.Setenv("NATS_SERVER_NAME", "n1")
	t.Setenv("NATS_STORE_DIR", t.TempDir())
	for _, user := range []string{"SYS", "PROCESSOR", "ACME", "BETA"} {
		t.Setenv(user+"_PASSWORD", strings.ToLower(user)+"-5ecret")
	}
	options, err := server.ProcessConfigFile("../../" + file)
	require.NoError(t, err)
	options.Host, options.Port, options.HTTPHost, options.HTTPPort, options.NoSigs, options.NoLog = "127.0.0.1", -1, "", 0, true, true
	s, err := server.NewServer(options)
	require.NoError(t, err)
	go s.Start()
	require.True(t, s.ReadyForConnections(30*time.Second))
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	return s
}

// as gives the address of a server with a user's name and password.
func as(s *server.Server, user string) string {
	return strings.Replace(s.ClientURL(), "nats://", "nats://"+user+":"+user+"-5ecret@", 1)
}

// batch, ask, status and cancel need no more rights than a tenant has, and
// doctor says so; with the rights of another tenant nothing works.
func TestATenantsRightsAreEnough(t *testing.T) {
	for _, file := range []string{"nats.conf", "nats-users.conf"} {
		t.Run(file, func(t *testing.T) {
			if file != "nats.conf" && os.Getenv("PROCESSOR_SLOW") == "" {
				t.Skip("PROCESSOR_SLOW=1 tries the other file too")
			}
			s := production(t, file)
			stop := serving(t, fmt.Sprintf("nats: {url: %q}\n", as(s, "processor")))
			defer stop()
			inbox := ""
			if file == "nats-users.conf" {
				inbox = ", inbox_prefix: _INBOX.acme"
			}
			acme := configured(t, fmt.Sprintf("nats: {url: %q%s}\n", as(s, "acme"), inbox))
			status, stdout, stderr := acme("ask", "--tenant", "acme", "Who may ask?")
			require.Zero(t, status, stderr)
			require.NotEmpty(t, stdout)
			status, _, stderr = acme("ask", "--tenant", "acme", "--stream", "Who may ask?")
			require.Zero(t, status, stderr)

			lines := filepath.Join(t.TempDir(), "lines.jsonl")
			var text strings.Builder
			for i := range 20 {
				fmt.Fprintf(&text, `{"custom_id":"r%d","method":"POST","url":"/v1/chat/completions","body":{"model":"m","messages":[{"role":"user","content":"%d"}]}}`+"\n", i, i)
			}
			require.NoError(t, os.WriteFile(lines, []byte(text.String()), 0o600))
			status, stdout, stderr = acme("batch", "--tenant", "acme", lines)
			require.Zero(t, status, stderr)
			require.Equal(t, 20, strings.Count(stdout, "\n"))

			status, stdout, stderr = acme("doctor", "--tenant", "acme")
			require.Zero(t, status, stdout+stderr)
			require.NotContains(t, stdout, "5ecret")
			status, stdout, _ = acme("doctor")
			require.Equal(t, 1, status)
			require.Contains(t, stdout, "processor doctor --tenant NAME")
			status, stdout, _ = acme("doctor", "--tenant", "beta", "--timeout", "1s")
			require.Equal(t, 1, status)
			require.Contains(t, stdout, "publishing to llm.requests.beta")
			require.NotContains(t, stdout+stderr, "5ecret")

			status, stdout, stderr = configured(t, fmt.Sprintf("nats: {url: %q}\n", as(s, "processor")))("doctor")
			require.Zero(t, status, stdout+stderr)
			require.Contains(t, stdout, "every stage is served")
		})
	}
}

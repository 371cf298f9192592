package proc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// Node is a NATS server as a child process runs it.
type Node struct {
	Name string // of the server; in a cluster no other has it
	Dir  string // of its data
	Port int    // for clients; -1 is any

	// ClusterPort is where the other servers of its cluster reach it, and Routes
	// are their addresses. 0 is a server on its own.
	ClusterPort int
	Routes      []string

	// Sync is how often files are forced to the disk; 0 is the server's default
	// of two minutes. Always does it before every acknowledgement.
	Sync   time.Duration
	Always bool
}

// StartNode runs a NATS server in a child of this program until it is killed,
// and waits until it takes connections.
func StartNode(ctx context.Context, n Node) (*Process, error) {
	return Start(ctx, fmt.Sprintf("node %s %s %d %d %s %t %s", n.Name, n.Dir, n.Port, n.ClusterPort, n.Sync, n.Always, strings.Join(n.Routes, ",")))
}

// nodeOf reads what StartNode wrote. No path here has spaces.
func nodeOf(args []string) (n Node, err error) {
	if len(args) < 6 {
		return n, errors.New("a node needs a name, a directory, two ports, and when to sync")
	}
	n.Name, n.Dir = args[0], args[1]
	if n.Port, err = strconv.Atoi(args[2]); err != nil {
		return n, err
	}
	if n.ClusterPort, err = strconv.Atoi(args[3]); err != nil {
		return n, err
	}
	if n.Sync, err = time.ParseDuration(args[4]); err != nil {
		return n, err
	}
	if n.Always, err = strconv.ParseBool(args[5]); err != nil {
		return n, err
	}
	if len(args) > 6 {
		n.Routes = strings.Split(args[6], ",")
	}
	return n, nil
}

// playNode runs a NATS server.
func playNode(args []string) error {
	n, err := nodeOf(args)
	if err != nil {
		return err
	}
	options := &server.Options{
		ServerName: n.Name, Host: "127.0.0.1", Port: n.Port, JetStream: true, StoreDir: n.Dir,
		JetStreamMaxStore: 1 << 50, JetStreamMaxMemory: 4 << 30, NoSigs: true, NoLog: true,
		SyncInterval: n.Sync, SyncAlways: n.Always,
	}
	if n.ClusterPort != 0 {
		// Clients know only the addresses that they are given, so that a proxy
		// between them and a server can be no detour.
		options.Cluster = server.ClusterOpts{Name: "processor", Host: "127.0.0.1", Port: n.ClusterPort, NoAdvertise: true}
		for i, route := range n.Routes {
			n.Routes[i] = "nats://" + route
		}
		options.Routes = server.RoutesFromStr(strings.Join(n.Routes, ","))
	}
	s, err := server.NewServer(options)
	if err != nil {
		return err
	}
	if path := os.Getenv(NodeLog); path != "" {
		options.NoLog, options.LogFile, options.Logtime = false, path+"."+n.Name, true
		s.ConfigureLogger()
	}
	go s.Start()
	if !s.ReadyForConnections(time.Minute) {
		return errors.New("the NATS server did not start")
	}
	fmt.Println(s.ClientURL())
	_, _ = io.Copy(io.Discard, os.Stdin) // until the parent ends
	s.Shutdown()
	s.WaitForShutdown()
	return nil
}

// NodeLog names a variable of the environment: the file that nodes log to, each
// with its name appended. Without it they say nothing.
const NodeLog = "PROCESSOR_NODE_LOG"

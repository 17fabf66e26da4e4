// Members of the integration suite's clusters as processes: of the binary that SERVER names, in the place of servers within the
// suite's own process. What is declared here replaces what has been renamed in cluster.go, see client.sh.
//
// A cluster is one process. Where a test asks for several members, each of them is a door to that one, with a client of its own. A
// test that stops, adds or cuts off one member of several is skipped when it comes to that.

package integration

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/testutil"
	"go.etcd.io/etcd/client/pkg/v3/types"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3rpc"
)

type process struct {
	// The member that starts and ends it; the others are doors.
	owner   *Member
	several bool
	command *exec.Cmd
	// host:port, kept when the process is started again.
	client, peer, bridge string
	stopped              chan struct{}
}

// Of each *Member its *process.
var processes sync.Map

func (m *Member) process() *process {
	p, _ := processes.LoadOrStore(m, &process{owner: m})
	return p.(*process)
}

func (m *Member) skipOfSeveral(t testutil.TB, what string) {
	if m.process().several {
		t.Skip("one member of several is to be " + what)
	}
}

// NewCluster returns members that have been launched.
func NewCluster(t testutil.TB, cfg *ClusterConfig) *Cluster {
	if cfg.PeerTLS != nil {
		t.Skip("members are to speak TLS with each other")
	}
	c := &Cluster{Cfg: cfg}
	p := &process{several: cfg.Size > 1}
	for range cfg.Size {
		m := c.MustNewMember(t)
		if p.owner == nil {
			p.owner = m
		}
		processes.Store(m, p)
		c.Members = append(c.Members, m)
	}
	for _, m := range c.Members {
		if err := m.Launch(); err != nil {
			c.Terminate(t)
			t.Fatal(err)
		}
	}
	return c
}

// The process listens by itself.
func (m *Member) listenGRPC() error { return nil }

func (m *Member) scheme() string {
	if m.ClientTLSInfo != nil {
		return "https"
	}
	return "http"
}

// Ports from PORTS on are free for this package, below those from which the system takes.
var port = sync.OnceValue(func() *atomic.Int32 {
	first, err := strconv.Atoi(os.Getenv("PORTS"))
	if err != nil {
		panic(err)
	}
	next := &atomic.Int32{}
	next.Store(int32(first))
	return next
})

// The certificates are of this name.
func address() string { return fmt.Sprintf("localhost:%d", port().Add(1)) }

func (m *Member) flags(p *process) []string {
	client, peer := m.scheme()+"://"+p.client, "http://"+p.peer
	progress := m.WatchProgressNotifyInterval
	if progress == 0 {
		// Which tests set for servers in their own process.
		progress = v3rpc.GetProgressReportInterval()
	}
	flags := []string{
		"--name=" + m.Name,
		"--data-dir=" + m.DataDir,
		"--listen-client-urls=" + client,
		"--advertise-client-urls=" + client,
		"--listen-peer-urls=" + peer,
		"--initial-advertise-peer-urls=" + peer,
		"--initial-cluster=" + m.Name + "=" + peer,
		"--initial-cluster-token=" + m.InitialClusterToken,
		"--auth-token=" + m.AuthToken,
		"--watch-progress-notify-interval=" + progress.String(),
		fmt.Sprintf("--heartbeat-interval=%d", m.TickMs),
		fmt.Sprintf("--election-timeout=%d", m.TickMs*uint(m.ElectionTicks)),
		fmt.Sprintf("--quota-backend-bytes=%d", m.QuotaBackendBytes),
		fmt.Sprintf("--max-txn-ops=%d", m.MaxTxnOps),
		fmt.Sprintf("--max-request-bytes=%d", m.MaxRequestBytes),
		fmt.Sprintf("--snapshot-count=%d", m.SnapshotCount),
		fmt.Sprintf("--bcrypt-cost=%d", m.BcryptCost),
		fmt.Sprintf("--strict-reconfig-check=%v", m.StrictReconfigCheck),
	}
	if tls := m.ClientTLSInfo; tls != nil {
		flags = append(flags, "--cert-file="+tls.CertFile, "--key-file="+tls.KeyFile,
			"--trusted-ca-file="+tls.TrustedCAFile, fmt.Sprintf("--client-cert-auth=%v", tls.ClientCertAuth))
	}
	return flags
}

func (p *process) start() error {
	if p.client == "" {
		p.client, p.peer = address(), address()
	}
	log, err := os.OpenFile(os.Getenv("SERVER_LOG"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	p.command = exec.Command(os.Getenv("SERVER"), p.owner.flags(p)...)
	p.command.Stdout, p.command.Stderr = log, log
	p.stopped = make(chan struct{})
	if err := p.command.Start(); err != nil {
		return err
	}
	// Whoever listens is ready. A client would wait a second before it tries again.
	for deadline := time.Now().Add(RequestTimeout); ; time.Sleep(5 * time.Millisecond) {
		connection, err := net.Dial("tcp", p.client)
		if err == nil {
			return connection.Close()
		} else if time.Now().After(deadline) {
			return fmt.Errorf("%s does not listen: %w", p.owner.Name, err)
		}
	}
}

// Launch starts the process, unless the member is a door to it, and makes its client.
func (m *Member) Launch() (err error) {
	for _, l := range append(m.PeerListeners, m.ClientListeners...) {
		l.Close()
	}
	p := m.process()
	if p.owner == m {
		if err := p.start(); err != nil {
			return err
		}
	}
	m.GRPCURL = m.scheme() + "://" + p.client
	if m.ClientURLs, err = types.NewURLs([]string{m.GRPCURL}); err != nil {
		return err
	}
	if m.UseBridge {
		at := address()
		if p.owner == m {
			if p.bridge == "" {
				p.bridge = at
			}
			at = p.bridge
		}
		l, err := net.Listen("tcp", at)
		if err != nil {
			return err
		}
		m.GRPCBridge = newBridge(dialer{network: "tcp", addr: p.client}, l)
		m.GRPCURL = m.scheme() + "://" + at
	}
	if m.Client == nil {
		m.Client, err = NewClientV3(m)
	}
	return err
}

// Close ends the process, unless the member is a door to it.
func (m *Member) Close() {
	if m.GRPCBridge != nil {
		m.GRPCBridge.Close()
		m.GRPCBridge = nil
	}
	p := m.process()
	if p.owner != m || p.command == nil || p.command.Process == nil {
		return
	}
	p.command.Process.Signal(syscall.SIGTERM)
	// What the suite gives its own: calls that do not end, as of watches, do not hold it up.
	kill := time.AfterFunc(2*time.Second, func() { p.command.Process.Kill() })
	p.command.Wait()
	kill.Stop()
	p.command = nil
	close(p.stopped)
}

// Stop ends the process, and leaves what it has written.
func (m *Member) Stop(t testutil.TB) {
	m.skipOfSeveral(t, "stopped")
	m.Close()
}

// Restart starts the process on what it has written.
func (m *Member) Restart(t testutil.TB) error {
	m.skipOfSeveral(t, "started again")
	return m.Launch()
}

func (m *Member) StopNotify() <-chan struct{} { return m.process().stopped }

// ReadyNotify is of a member that has been launched, which is ready.
func (m *Member) ReadyNotify() <-chan struct{} {
	ready := make(chan struct{})
	close(ready)
	return ready
}

func (m *Member) WaitOK(t testutil.TB) { m.WaitStarted(t) }

func (m *Member) ElectionTimeout() time.Duration {
	return time.Duration(m.ElectionTicks*int(m.TickMs)) * time.Millisecond
}

func (m *Member) ID() types.ID {
	response, err := m.Client.MemberList(context.Background())
	if err != nil {
		panic(err)
	}
	return types.ID(response.Header.MemberId)
}

func (m *Member) InjectPartition(t testutil.TB, _ ...*Member) {
	t.Skip("members are to be cut off from each other")
}

func (c *Cluster) AddMember(t testutil.TB) types.URLs {
	t.Skip("a member is to be added, and started")
	return nil
}

func (c *Cluster) AddAndLaunchLearnerMember(t testutil.TB) {
	t.Skip("a learner is to be added, and started")
}

func (c *Cluster) waitVersion() {}

// Who asks for the leader gets the first member, which is as much the leader as every other.
func (c *Cluster) waitMembersForLeader(context.Context, testing.TB, []*Member) int { return 0 }

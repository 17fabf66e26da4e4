// Package stock drives a running server with etcd's own Go client, unchanged: what works here works for everybody who
// uses that client. The endpoint is told by URD_ENDPOINT, as host:port.
package stock

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
	"go.etcd.io/etcd/client/v3/namespace"
)

const patience = 60 * time.Second

// connect gives a client whose keys are this test's own, and a context that ends with the test.
func connect(t *testing.T) (*clientv3.Client, context.Context) {
	t.Helper()
	endpoint := os.Getenv("URD_ENDPOINT")
	if endpoint == "" {
		t.Fatal("URD_ENDPOINT names no server")
	}
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{endpoint}, DialTimeout: 5 * time.Second})
	must(t, err)
	t.Cleanup(func() { must(t, client.Close()) })
	prefix := fmt.Sprintf("%s-%d/", t.Name(), time.Now().UnixNano())
	client.KV = namespace.NewKV(client.KV, prefix)
	client.Watcher = namespace.NewWatcher(client.Watcher, prefix)
	client.Lease = namespace.NewLease(client.Lease, prefix)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return client, ctx
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func equal[T comparable](t *testing.T, got, want T) {
	t.Helper()
	if got != want {
		t.Fatalf("got %v, want %v", got, want)
	}
}

func TestPutGetDelete(t *testing.T) {
	client, ctx := connect(t)
	for i := range 25 {
		_, err := client.Put(ctx, fmt.Sprintf("k%02d", i), fmt.Sprint(i))
		must(t, err)
	}
	first, err := client.Get(ctx, "k", clientv3.WithPrefix(), clientv3.WithLimit(10))
	must(t, err)
	equal(t, first.Count, 25)
	equal(t, len(first.Kvs), 10)
	equal(t, first.More, true)

	// A listing in pages, all at the revision of the first.
	_, err = client.Put(ctx, "k99", "later")
	must(t, err)
	seen, from := 0, "k"
	for {
		page, err := client.Get(ctx, from, clientv3.WithRange(clientv3.GetPrefixRangeEnd("k")),
			clientv3.WithLimit(7), clientv3.WithRev(first.Header.Revision))
		must(t, err)
		seen += len(page.Kvs)
		if !page.More {
			break
		}
		from = string(page.Kvs[len(page.Kvs)-1].Key) + "\x00"
	}
	equal(t, seen, 25)

	last, err := client.Get(ctx, "k", clientv3.WithLastRev()...)
	must(t, err)
	equal(t, string(last.Kvs[0].Key), "k99")
	put, err := client.Put(ctx, "k99", "latest", clientv3.WithPrevKV())
	must(t, err)
	equal(t, string(put.PrevKv.Value), "later")
	gone, err := client.Delete(ctx, "k", clientv3.WithPrefix(), clientv3.WithPrevKV())
	must(t, err)
	equal(t, gone.Deleted, 26)
	equal(t, len(gone.PrevKvs), 26)
}

func TestErrorsAreTheClientsOwn(t *testing.T) {
	client, ctx := connect(t)
	is := func(err, want error) {
		t.Helper()
		if !errors.Is(err, want) {
			t.Fatalf("got %v, want %v", err, want)
		}
	}
	_, err := client.Get(ctx, "k", clientv3.WithRev(1<<40))
	is(err, rpctypes.ErrFutureRev)
	_, err = client.Put(ctx, "k", "v", clientv3.WithLease(12345))
	is(err, rpctypes.ErrLeaseNotFound)
	_, err = client.Put(ctx, "absent", "", clientv3.WithIgnoreValue())
	is(err, rpctypes.ErrKeyNotFound)
	_, err = client.Revoke(ctx, 12345)
	is(err, rpctypes.ErrLeaseNotFound)
	_, err = client.Txn(ctx).Then(clientv3.OpPut("k", "1"), clientv3.OpPut("k", "2")).Commit()
	is(err, rpctypes.ErrDuplicateKey)
	_, err = client.Put(ctx, "k", string(make([]byte, 1600*1024)))
	is(err, rpctypes.ErrRequestTooLarge)
	short, cancel := context.WithTimeout(ctx, time.Nanosecond)
	defer cancel()
	_, err = client.Get(short, "k")
	is(err, context.DeadlineExceeded)
}

func TestTxn(t *testing.T) {
	client, ctx := connect(t)
	txn := func() *clientv3.TxnResponse {
		response, err := client.Txn(ctx).
			If(clientv3.Compare(clientv3.Version("lock"), "=", 0)).
			Then(clientv3.OpPut("lock", "mine"), clientv3.OpTxn(nil, []clientv3.Op{clientv3.OpPut("inner", "1")}, nil)).
			Else(clientv3.OpGet("lock")).
			Commit()
		must(t, err)
		return response
	}
	equal(t, txn().Succeeded, true)
	second := txn()
	equal(t, second.Succeeded, false)
	equal(t, string(second.Responses[0].GetResponseRange().Kvs[0].Value), "mine")

	// Many transfers between two accounts, in the client's software transactions: no money is made or lost.
	for _, account := range []string{"a", "b"} {
		_, err := client.Put(ctx, account, "100")
		must(t, err)
	}
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for range 20 {
				_, err := concurrency.NewSTM(client, func(stm concurrency.STM) error {
					var a, b int
					if _, err := fmt.Sscan(stm.Get("a"), &a); err != nil {
						return err
					}
					if _, err := fmt.Sscan(stm.Get("b"), &b); err != nil {
						return err
					}
					stm.Put("a", fmt.Sprint(a-1))
					stm.Put("b", fmt.Sprint(b+1))
					return nil
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	for account, want := range map[string]string{"a": "20", "b": "180"} {
		got, err := client.Get(ctx, account)
		must(t, err)
		equal(t, string(got.Kvs[0].Value), want)
	}
}

func TestWatch(t *testing.T) {
	client, ctx := connect(t)
	start, err := client.Put(ctx, "k/0", "first")
	must(t, err)
	live := client.Watch(ctx, "k/", clientv3.WithPrefix(), clientv3.WithPrevKV(), clientv3.WithCreatedNotify())
	equal(t, (<-live).Created, true)
	for i := range 100 {
		_, err := client.Put(ctx, fmt.Sprintf("k/%d", i%5), fmt.Sprint(i))
		must(t, err)
	}
	_, err = client.Delete(ctx, "k/0")
	must(t, err)
	collect := func(from clientv3.WatchChan, count int) []*clientv3.Event {
		var events []*clientv3.Event
		for len(events) < count {
			response, open := <-from
			if !open || response.Err() != nil {
				t.Fatalf("the watch ended after %d events: %v", len(events), response.Err())
			}
			events = append(events, response.Events...)
		}
		return events
	}
	seen := collect(live, 101)
	equal(t, string(seen[0].PrevKv.Value), "first")
	equal(t, seen[100].Type, mvccpb.Event_DELETE)
	equal(t, string(seen[100].PrevKv.Value), "95")
	past := client.Watch(ctx, "k/", clientv3.WithPrefix(), clientv3.WithPrevKV(), clientv3.WithRev(start.Header.Revision+1))
	for i, event := range collect(past, 101) {
		equal(t, event.Kv.ModRevision, seen[i].Kv.ModRevision)
		equal(t, string(event.Kv.Value), string(seen[i].Kv.Value))
		equal(t, event.IsCreate(), seen[i].IsCreate())
	}
	must(t, client.RequestProgress(ctx))
	progress := <-live
	equal(t, progress.IsProgressNotify(), true)

	_, err = client.Compact(ctx, seen[50].Kv.ModRevision)
	must(t, err)
	old := <-client.Watch(ctx, "k/", clientv3.WithPrefix(), clientv3.WithRev(start.Header.Revision))
	equal(t, old.CompactRevision, seen[50].Kv.ModRevision)
	if !errors.Is(old.Err(), rpctypes.ErrCompacted) {
		t.Fatal(old.Err())
	}
}

func TestLeaseIsKeptAliveAndEnds(t *testing.T) {
	client, ctx := connect(t)
	lease, err := client.Grant(ctx, 2)
	must(t, err)
	_, err = client.Put(ctx, "k", "v", clientv3.WithLease(lease.ID))
	must(t, err)
	keeping, stop := context.WithCancel(ctx)
	alive, err := client.KeepAlive(keeping, lease.ID)
	must(t, err)
	for range 3 {
		if answer, open := <-alive; !open || answer.TTL != 2 {
			t.Fatalf("a keep-alive was answered with %v", answer)
		}
	}
	told, err := client.TimeToLive(ctx, lease.ID, clientv3.WithAttachedKeys())
	must(t, err)
	equal(t, told.GrantedTTL, 2)
	equal(t, len(told.Keys), 1)
	gone := client.Watch(ctx, "k")
	stop()
	equal(t, (<-gone).Events[0].Type, mvccpb.Event_DELETE)
	told, err = client.TimeToLive(ctx, lease.ID)
	must(t, err)
	equal(t, told.TTL, -1)
}

func TestLockAndElection(t *testing.T) {
	client, ctx := connect(t)
	var all sync.WaitGroup
	inside, entries := 0, 0
	for range 3 {
		session, err := concurrency.NewSession(client, concurrency.WithTTL(10))
		must(t, err)
		all.Go(func() {
			defer session.Close()
			mutex := concurrency.NewMutex(session, "mutex")
			for range 5 {
				if err := mutex.Lock(ctx); err != nil {
					t.Error(err)
					return
				}
				inside++
				entries++
				if inside != 1 {
					t.Error("two hold the lock")
				}
				inside--
				if err := mutex.Unlock(ctx); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	equal(t, entries, 15)

	sessions := make([]*concurrency.Session, 2)
	elections := make([]*concurrency.Election, 2)
	for i := range sessions {
		session, err := concurrency.NewSession(client, concurrency.WithTTL(10))
		must(t, err)
		sessions[i], elections[i] = session, concurrency.NewElection(session, "election")
	}
	must(t, elections[0].Campaign(ctx, "one"))
	won := make(chan error)
	go func() { won <- elections[1].Campaign(ctx, "two") }()
	leader, err := elections[1].Leader(ctx)
	must(t, err)
	equal(t, string(leader.Kvs[0].Value), "one")
	must(t, elections[0].Proclaim(ctx, "still one"))
	// A session that ends gives up what it won.
	must(t, sessions[0].Close())
	must(t, <-won)
	leader, err = elections[0].Leader(ctx)
	must(t, err)
	equal(t, string(leader.Kvs[0].Value), "two")
	must(t, elections[1].Resign(ctx))
	must(t, sessions[1].Close())
}

func TestMaintenance(t *testing.T) {
	client, ctx := connect(t)
	endpoint := client.Endpoints()[0]
	put, err := client.Put(ctx, "k", "v")
	must(t, err)
	status, err := client.Status(ctx, endpoint)
	must(t, err)
	equal(t, status.Leader, status.Header.MemberId)
	hash, err := client.HashKV(ctx, endpoint, put.Header.Revision)
	must(t, err)
	equal(t, hash.HashRevision, put.Header.Revision)
	_, err = client.Compact(ctx, put.Header.Revision, clientv3.WithCompactPhysical())
	must(t, err)
	_, err = client.Compact(ctx, put.Header.Revision)
	if !errors.Is(err, rpctypes.ErrCompacted) {
		t.Fatal(err)
	}
	_, err = client.Defragment(ctx, endpoint)
	must(t, err)
	alarms, err := client.AlarmList(ctx)
	must(t, err)
	equal(t, len(alarms.Alarms), 0)
	members, err := client.MemberList(ctx)
	must(t, err)
	equal(t, len(members.Members), 1)
	must(t, client.Sync(ctx))
}

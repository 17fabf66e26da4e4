// Writer writes for as long as it is let, through etcd's own client, as a program does that does not know what becomes of the
// members: puts and transactions to new keys, a lease that is kept alive, a watch of all that is written. A write that fails is tried
// again. Told to end, it looks whether every acknowledged write is there, whether the watch has seen each revision's once and in
// order, and whether the lease is there yet; and prints counts, and the longest time without an acknowledged write.
//
//	ETCDCTL_… writer ENDPOINTS
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

const (
	callers = 4
	pause   = 5 * time.Millisecond
	prefix  = "written/"
)

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func main() {
	pair, err := tls.LoadX509KeyPair(os.Getenv("ETCDCTL_CERT"), os.Getenv("ETCDCTL_KEY"))
	must(err)
	authority, err := os.ReadFile(os.Getenv("ETCDCTL_CACERT"))
	must(err)
	secrets := &tls.Config{Certificates: []tls.Certificate{pair}, RootCAs: x509.NewCertPool()}
	secrets.RootCAs.AppendCertsFromPEM(authority)
	name, password, _ := strings.Cut(os.Getenv("ETCDCTL_USER"), ":")
	client, err := clientv3.New(clientv3.Config{
		Endpoints: strings.Split(os.Args[1], ","), TLS: secrets, Username: name, Password: password, DialTimeout: 10 * time.Second,
	})
	must(err)
	defer client.Close()
	asked, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer cancel()

	lease, err := client.Grant(context.Background(), 15)
	must(err)
	kept, err := client.KeepAlive(asked, lease.ID)
	must(err)
	go func() {
		for range kept {
		}
	}()
	watching, end := context.WithCancel(context.Background())
	watch := client.Watch(watching, prefix, clientv3.WithPrefix(), clientv3.WithRev(1))
	var group sync.WaitGroup
	var lock sync.Mutex
	acknowledged := map[string]string{}
	last, longest, refused := time.Now(), time.Duration(0), 0
	for caller := range callers {
		group.Go(func() {
			for at := 0; asked.Err() == nil; at++ {
				key, value := fmt.Sprintf("%s%d/%07d", prefix, caller, at), fmt.Sprint(at)
				for {
					err := write(client, key, value, at, lease.ID)
					lock.Lock()
					if err == nil {
						acknowledged[key] = value
						longest, last = max(longest, time.Since(last)), time.Now()
					} else {
						refused++
					}
					lock.Unlock()
					if err == nil || asked.Err() != nil {
						break
					}
					time.Sleep(pause)
				}
				time.Sleep(pause)
			}
		})
	}
	group.Wait()

	ctx, done := context.WithTimeout(context.Background(), 20*time.Second)
	defer done()
	there, err := client.Get(ctx, prefix, clientv3.WithPrefix())
	must(err)
	found := map[string]string{}
	for _, one := range there.Kvs {
		found[string(one.Key)] = string(one.Value)
	}
	for key, value := range acknowledged {
		if found[key] != value {
			log.Fatalf("%s was acknowledged with %q, and is %q", key, value, found[key])
		}
	}
	events, revision := 0, int64(0)
	for events < len(found) {
		select {
		case answer, open := <-watch:
			if !open || answer.Err() != nil {
				log.Fatalf("the watch has ended after %d events of %d: %v", events, len(found), answer.Err())
			}
			for _, event := range answer.Events {
				if event.Kv.ModRevision <= revision || found[string(event.Kv.Key)] == "" {
					log.Fatalf("the watch was given %s of revision %d after %d", event.Kv.Key, event.Kv.ModRevision, revision)
				}
				revision = event.Kv.ModRevision
				if event.Kv.Version == 1 {
					events++
				}
			}
		case <-ctx.Done():
			log.Fatalf("the watch has seen %d of %d keys", events, len(found))
		}
	}
	end()
	rest, err := client.TimeToLive(ctx, lease.ID)
	must(err)
	if rest.TTL <= 0 {
		log.Fatal("the lease has ended although it was kept alive")
	}
	fmt.Printf("writer: %d acknowledged writes, all there; %d seen by the watch, in order; the lease is there; "+
		"%d calls failed and were made again; longest time without a write %.2f s\n",
		len(acknowledged), events, refused, longest.Seconds())
}

// write makes a put, or a transaction that makes the key if it is not there.
func write(client *clientv3.Client, key, value string, at int, lease clientv3.LeaseID) error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	switch at % 3 {
	case 0:
		_, err := client.Put(ctx, key, value, clientv3.WithLease(lease))
		return err
	case 1:
		_, err := client.Put(ctx, key, value)
		return err
	}
	answer, err := client.Txn(ctx).If(clientv3.Compare(clientv3.Version(key), "=", 0)).Then(clientv3.OpPut(key, value)).
		Else(clientv3.OpGet(key)).Commit()
	if err == nil && !answer.Succeeded && string(answer.Responses[0].GetResponseRange().Kvs[0].Value) != value {
		return errors.New("somebody else has written")
	}
	return err
}

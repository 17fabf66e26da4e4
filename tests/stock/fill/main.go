// Fill makes revisions of every kind through etcd's own client: puts of new and old keys, with and without values and
// leases, deletes of one and of many, transactions of several changes. By a seed, by several callers at a time.
//
//	URD_ENDPOINT=host:port fill COUNT SEED LEASE
package main

import (
	"context"
	"fmt"
	"log"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"

	clientv3 "go.etcd.io/etcd/client/v3"
)

const callers = 32

func number(at int) int64 {
	number, err := strconv.ParseInt(os.Args[at], 0, 64)
	must(err)
	return number
}

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func main() {
	if len(os.Args) != 4 {
		log.Fatal("usage: fill COUNT SEED LEASE")
	}
	count, seed, lease := number(1), number(2), clientv3.LeaseID(number(3))
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{os.Getenv("URD_ENDPOINT")}})
	must(err)
	defer client.Close()
	var group sync.WaitGroup
	for caller := range int64(callers) {
		group.Add(1)
		go func() {
			defer group.Done()
			random := rand.New(rand.NewPCG(uint64(seed), uint64(caller)))
			// What changes nothing makes no revision.
			for made := int64(0); made < count/callers+1; {
				made += change(client, random, lease)
			}
		}()
	}
	group.Wait()
}

// change makes one request and says how many revisions it was.
func change(client *clientv3.Client, random *rand.Rand, lease clientv3.LeaseID) int64 {
	ctx := context.Background()
	key := func() string { return fmt.Sprintf("key/%d", random.IntN(2000)) }
	value := func() string { return strings.Repeat("v", random.IntN(300)) + strconv.Itoa(random.Int()) }
	switch kind := random.IntN(100); {
	case kind < 60:
		_, err := client.Put(ctx, key(), value())
		must(err)
		return 1
	case kind < 65:
		_, err := client.Put(ctx, key(), "")
		must(err)
		return 1
	case kind < 70:
		_, err := client.Put(ctx, key(), value(), clientv3.WithLease(lease))
		must(err)
		return 1
	case kind < 71:
		_, err := client.Put(ctx, key(), strings.Repeat("large", 20000))
		must(err)
		return 1
	case kind < 84:
		deleted, err := client.Delete(ctx, key())
		must(err)
		return min(deleted.Deleted, 1)
	case kind < 85:
		prefix := fmt.Sprintf("key/%d", 100+random.IntN(100))
		deleted, err := client.Delete(ctx, prefix, clientv3.WithPrefix())
		must(err)
		return min(deleted.Deleted, 1)
	default:
		// No key twice in one transaction.
		first := random.IntN(1000)
		one, other := fmt.Sprintf("key/%d", first), fmt.Sprintf("key/%d", 1000+random.IntN(1000))
		_, err := client.Txn(ctx).Then(
			clientv3.OpPut(one, value()),
			clientv3.OpDelete(other),
			clientv3.OpPut(fmt.Sprintf("txn/%d", first), value(), clientv3.WithLease(lease)),
			clientv3.OpGet(one),
		).Commit()
		must(err)
		return 1
	}
}

//! Snapshots over the wire, read with the program's own reader of etcd's databases. With the reference as the server
//! under test, it is that one's databases that are read. (etcd API, Maintenance.Snapshot.)

mod server;

use std::{cell::Cell, collections::HashMap, io};

use bytes::Bytes;
use server::{Server, is_reference, soon};
use sha2::{Digest, Sha256};
use urd::{
    bolt::read::Database,
    store::{
        backend::import::{self, Imported, KeepValues},
        hash,
        types::{KeyRange, Place, Revision, Values},
    },
};
use urd_client::{Client, Receiver, Sender, etcdserverpb::*, op};

#[derive(Default)]
struct Kept(HashMap<u32, Bytes>);

impl KeepValues for Kept {
    fn keep(&mut self, values: Vec<(Revision, Bytes)>) -> io::Result<Vec<Place>> {
        let mut keep = |(_, value): (Revision, Bytes)| {
            let (segment, len) = (self.0.len() as u32 + 1, value.len() as u32);
            self.0.insert(segment, value);
            Place { segment, offset: 0, len }
        };
        Ok(values.into_iter().map(&mut keep).collect())
    }
}

impl Values for Kept {
    fn read(&self, place: Place) -> io::Result<Bytes> {
        Ok(self.0[&place.segment].clone())
    }
}

type Stream = (Sender<SnapshotRequest>, Receiver<SnapshotResponse>);

async fn open(client: &Client) -> Stream {
    let (mut sender, receiver) = client.stream::<SnapshotRequest>().await.unwrap();
    sender.send(&SnapshotRequest {}).unwrap();
    (sender, receiver)
}

/// The database of a snapshot, its messages looked at on the way.
async fn rest(mut file: Vec<u8>, (sender, mut receiver): Stream) -> Vec<u8> {
    sender.finish().unwrap();
    let mut total = None;
    loop {
        let message = soon(receiver.expect()).await.unwrap();
        assert_eq!((message.header, &message.version[..]), (None, "3.7.0"));
        let total = *total.get_or_insert(file.len() as u64 + message.blob.len() as u64 + message.remaining_bytes);
        if file.len() as u64 == total {
            assert_eq!((message.remaining_bytes, &message.blob[..]), (0, &Sha256::digest(&file)[..]));
            assert_eq!(soon(receiver.next()).await.unwrap(), None);
            assert_eq!(file.len() % 4096, 0);
            return file;
        }
        file.extend_from_slice(&message.blob);
        assert_eq!(file.len() as u64 + message.remaining_bytes, total);
        assert!(message.blob.len() == 32 * 1024 || message.remaining_bytes == 0, "{} bytes", message.blob.len());
    }
}

async fn taken(client: &Client) -> Vec<u8> {
    rest(Vec::new(), open(client).await).await
}

fn imported(file: &[u8]) -> (Imported, Kept) {
    let mut kept = Kept::default();
    let imported = import::import(&Database::open(file, "the snapshot").unwrap(), 2, &mut kept).unwrap();
    (imported, kept)
}

/// Changes of every kind.
async fn history(client: &Client) {
    client.grant(77, 600).await.unwrap();
    client.grant(-9, 900).await.unwrap();
    for i in 0..300 {
        client.put(format!("key{}", i % 40), vec![i as u8; (i * 37) % 2000]).await.unwrap();
        if i % 9 == 0 {
            client.delete(format!("key{}", i % 7)).await.unwrap();
        }
    }
    client.call(&PutRequest { key: "leased".into(), lease: 77, ..Default::default() }).await.unwrap();
    client
        .call(&PutRequest { key: "large".into(), value: vec![1; 300_000].into(), ..Default::default() })
        .await
        .unwrap();
    let success = vec![op::put("a", "1"), op::put("b", ""), op::delete_range("key4", "key6"), op::put("c", "3")];
    client.call(&TxnRequest { success, ..Default::default() }).await.unwrap();
}

#[tokio::test]
async fn a_snapshot_is_the_whole_state() {
    let server = Server::start().await;
    let client = server.client().await;
    for round in 0..3 {
        match round {
            0 => {}
            1 => history(&client).await,
            _ => {
                let revision = client.status().await.unwrap().header.unwrap().revision - 100;
                client.call(&CompactionRequest { revision, physical: true }).await.unwrap();
            }
        }
        let file = taken(&client).await;
        let (imported, kept) = imported(&file);
        let state = &imported.state;
        assert_eq!(hash::hash(state, &kept).unwrap(), client.call(&HashRequest {}).await.unwrap().hash);
        let now = client.status().await.unwrap();
        assert_eq!(state.index.current(), now.header.unwrap().revision);
        assert_eq!((imported.consistent_index, imported.term), (now.raft_applied_index, now.raft_term));
        assert_eq!(imported.storage_version.as_deref(), Some("3.7.0"));
        for at in state.index.compacted().max(1)..=state.index.current() {
            let answer = client.hash_kv(at).await.unwrap();
            let hash = hash::hash_kv(&state.index, at, &kept).unwrap();
            // What a compaction has hashed when it began is kept, and another hash than one made of what it left.
            if at != state.index.compacted() {
                assert_eq!((hash.hash, hash.compacted), (answer.hash, answer.compact_revision), "at {at}");
            }
        }
        let members: Vec<_> = state.membership.members().map(|member| (member.id, member.name.clone())).collect();
        assert_eq!(members, [(now.header.unwrap().member_id, "default".to_owned())]);
        let leases: Vec<_> = state.leases.iter().map(|lease| (lease.id, lease.ttl)).collect();
        let wanted: &[_] = if round == 0 { &[] } else { &[(-9, 900), (77, 600)] };
        assert_eq!(leases, wanted);
        assert_eq!(state.leases.keys_owned(77), if round == 0 { vec![] } else { vec!["leased"] });
    }
}

#[tokio::test]
async fn what_is_written_meanwhile_is_not_in_it() {
    let server = Server::start().await;
    let client = server.client().await;
    history(&client).await;
    let writer = server.client().await;
    // Until there are enough of both, however slow either is.
    let (written, saved) = (Cell::new(0), Cell::new(0));
    let go_on = || written.get() < 30 || saved.get() < 10;
    let write = async {
        while go_on() {
            let count = written.get();
            writer.put(format!("key{}", count % 50), vec![count as u8; 500]).await.unwrap();
            written.set(count + 1);
        }
    };
    let take = async {
        let mut snapshots = Vec::new();
        while go_on() {
            snapshots.push(taken(&client).await);
            saved.set(snapshots.len());
        }
        snapshots
    };
    let ((), snapshots) = tokio::join!(write, take);
    let mut last = 0;
    for file in snapshots {
        let (imported, kept) = imported(&file);
        let index = &imported.state.index;
        assert!(index.current() >= last);
        last = index.current();
        let answer = client.hash_kv(last).await.unwrap();
        assert_eq!(hash::hash_kv(index, last, &kept).unwrap().hash, answer.hash);
    }
}

/// 20 MB of values, all of them overwritten, compacted and given back while the snapshot waits for its reader.
#[tokio::test]
async fn a_snapshot_that_is_read_slowly_keeps_what_it_needs() {
    if is_reference() {
        // It stands still until the snapshot has been read.
        return;
    }
    let server = Server::start().await;
    let client = server.client().await;
    let put_all = async |fill: u8| {
        for at in 0..200 {
            client.put(format!("key{at:03}"), vec![fill ^ at; 100_000]).await.unwrap();
        }
    };
    put_all(1).await;
    let reader = server.client().await;
    let (sender, mut receiver) = open(&reader).await;
    let first = soon(receiver.expect()).await.unwrap();
    put_all(2).await;
    let revision = client.status().await.unwrap().header.unwrap().revision;
    client.call(&CompactionRequest { revision, physical: true }).await.unwrap();
    client.call(&DefragmentRequest {}).await.unwrap();
    put_all(3).await;
    let file = rest(first.blob.to_vec(), (sender, receiver)).await;
    let (imported, kept) = imported(&file);
    let index = &imported.state.index;
    assert_eq!((index.current(), index.compacted(), index.event_count()), (201, -1, 200));
    for (at, kv) in index.iter_refs(KeyRange::From(&[]), 0).enumerate() {
        assert_eq!(kv.key, format!("key{at:03}"));
        let value = kept.value(kv.meta.place).unwrap();
        assert!(value.len() == 100_000 && value.iter().all(|byte| *byte == 1 ^ at as u8), "key {at}");
    }
    // And nothing is held any more.
    client.call(&CompactionRequest { revision: 601, physical: true }).await.unwrap();
    client.call(&DefragmentRequest {}).await.unwrap();
    assert_eq!(client.get("key199").await.unwrap().kvs[0].value, vec![3 ^ 199; 100_000]);
}

#[tokio::test]
async fn a_reader_who_leaves_is_no_matter() {
    if is_reference() {
        // It stands still in this, too.
        return;
    }
    let server = Server::start().await;
    let client = server.client().await;
    history(&client).await;
    for _ in 0..50 {
        let (sender, mut receiver) = open(&client).await;
        soon(receiver.expect()).await.unwrap();
        sender.cancel();
    }
    // Some that nobody reads at all.
    let mut left = Vec::new();
    for _ in 0..20 {
        left.push(open(&client).await);
    }
    let another = server.client().await;
    let (imported, _) = imported(&taken(&another).await);
    assert_eq!(imported.state.leases.len(), 2);
}

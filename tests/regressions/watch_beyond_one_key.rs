//! A permission for one key let a watch be made from that key on: an end of one zero byte counted as no end to the check,
//! as everything behind to the watch. (etcd before 3.7.1.)

use crate::server::{Server, refused, soon, users};
use urd::error;
use urd_client::{authpb::permission::Type, etcdserverpb::WatchCreateRequest};

#[tokio::test]
async fn a_watch_from_a_key_on_takes_more_than_that_key() {
    let server = Server::start_with(&[users::CHEAP]).await;
    let client = server.client().await;
    users::add(&client, "ann", &[(Type::Read, "k", ""), (Type::Read, "\0", "")]).await;
    let root = users::enable(&client).await;
    let ann = client.log_in("ann", "pw").await.unwrap();
    let mut watcher = ann.watcher().await.unwrap();
    for (key, end) in [("k", "\0"), ("k", "k\0\0"), ("k", "l"), ("", "\0"), ("\0", "\0"), ("l", "")] {
        let create = WatchCreateRequest { key: key.into(), range_end: end.into(), ..Default::default() };
        watcher.create(create).unwrap();
        let answer = soon(watcher.next()).await.unwrap();
        assert!(answer.created && answer.canceled && answer.watch_id == -1, "{key:?} {end:?}: {answer:?}");
        assert_eq!(answer.cancel_reason, error::PERMISSION_DENIED.to_string());
    }
    // Nothing at all stands for the least key there can be, and that is permitted.
    for (id, key) in [(0, ""), (1, "k")] {
        watcher.create(WatchCreateRequest { key: key.into(), ..Default::default() }).unwrap();
        let answer = soon(watcher.next()).await.unwrap();
        assert!(answer.created && !answer.canceled && answer.watch_id == id, "{answer:?}");
    }
    for key in ["l", "k", "kk", "k\0"] {
        root.put(key, "v").await.unwrap();
    }
    root.put("k", "last").await.unwrap();
    for value in ["v", "last"] {
        let answer = soon(watcher.next()).await.unwrap();
        let [event] = &answer.events[..] else { panic!("{answer:?}") };
        assert_eq!(event.kv.as_ref().map(|kv| (&kv.key[..], &kv.value[..])), Some((&b"k"[..], value.as_bytes())));
    }
    refused(ann.range("k", "\0").await, &error::PERMISSION_DENIED);
}

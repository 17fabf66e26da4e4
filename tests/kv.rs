//! KV over the wire: put, range, delete, transaction, compaction. (etcd API, KV; sections named per test.)

mod server;

use prost::Message;
use server::{Server, refused};
use urd::error::{self, Code};
use urd_client::{
    Client, Error,
    etcdserverpb::{
        range_request::{SortOrder, SortTarget},
        request_op::Request,
        response_op::Response,
        *,
    },
    mvccpb::KeyValue,
    op,
};

fn keys(kvs: &[KeyValue]) -> Vec<&str> {
    kvs.iter().map(|kv| std::str::from_utf8(&kv.key).unwrap()).collect()
}

fn revision(header: &Option<ResponseHeader>) -> i64 {
    header.as_ref().expect("a header").revision
}

#[tokio::test]
async fn a_key_lives_dies_and_lives_again() {
    let server = Server::start().await;
    let client = server.client().await;

    let empty = client.get("k").await.unwrap();
    assert_eq!((empty.kvs.len(), empty.count, revision(&empty.header)), (0, 0, 1));
    let header = empty.header.unwrap();
    assert!(header.cluster_id != 0 && header.member_id != 0 && header.raft_term >= 2, "{header:?}");

    assert_eq!(revision(&client.put("k", "1").await.unwrap().header), 2);
    assert_eq!(revision(&client.put("other", "").await.unwrap().header), 3);
    let put = PutRequest { key: "k".into(), value: "2".into(), prev_kv: true, ..Default::default() };
    let second = client.call(&put).await.unwrap();
    assert_eq!(revision(&second.header), 4);
    let first = KeyValue {
        key: "k".into(),
        value: "1".into(),
        create_revision: 2,
        mod_revision: 2,
        version: 1,
        ..Default::default()
    };
    assert_eq!(second.prev_kv, Some(first.clone()));

    let now = client.get("k").await.unwrap();
    let newest = KeyValue { value: "2".into(), mod_revision: 4, version: 2, ..first.clone() };
    assert_eq!((now.kvs, now.count, now.more), (vec![newest.clone()], 1, false));
    let past = client.call(&RangeRequest { key: "k".into(), revision: 3, ..Default::default() }).await.unwrap();
    assert_eq!((past.kvs, revision(&past.header)), (vec![first], 4));

    let delete = DeleteRangeRequest { key: "k".into(), prev_kv: true, ..Default::default() };
    let gone = client.call(&delete).await.unwrap();
    assert_eq!((gone.deleted, gone.prev_kvs, revision(&gone.header)), (1, vec![newest], 5));
    let nothing = client.call(&delete).await.unwrap();
    assert_eq!((nothing.deleted, nothing.prev_kvs, revision(&nothing.header)), (0, vec![], 5));

    client.put("k", "3").await.unwrap();
    let again = client.get("k").await.unwrap().kvs.remove(0);
    assert_eq!((again.create_revision, again.mod_revision, again.version), (6, 6, 1));
}

#[tokio::test]
async fn requests_that_make_no_sense_are_refused_in_etcds_words() {
    let server = Server::start().await;
    let client = server.client().await;
    let put = |key: &'static str| PutRequest { key: key.into(), ..Default::default() };
    let range = |key: &'static str| RangeRequest { key: key.into(), ..Default::default() };

    refused(client.put("", "v").await, &error::EMPTY_KEY);
    refused(client.get("").await, &error::EMPTY_KEY);
    refused(client.delete("").await, &error::EMPTY_KEY);
    let ignoring = PutRequest { ignore_value: true, value: "v".into(), ..put("k") };
    refused(client.call(&ignoring).await, &error::VALUE_PROVIDED);
    let ignoring = PutRequest { ignore_lease: true, lease: 7, ..put("k") };
    refused(client.call(&ignoring).await, &error::LEASE_PROVIDED);
    refused(client.call(&PutRequest { ignore_value: true, ..put("k") }).await, &error::KEY_NOT_FOUND);
    refused(client.call(&PutRequest { ignore_lease: true, ..put("k") }).await, &error::KEY_NOT_FOUND);
    refused(client.call(&PutRequest { lease: 7, ..put("k") }).await, &error::LEASE_NOT_FOUND);
    refused(client.call(&RangeRequest { sort_order: 9, ..range("k") }).await, &error::INVALID_SORT_OPTION);
    refused(client.call(&RangeRequest { sort_target: -1, ..range("k") }).await, &error::INVALID_SORT_OPTION);
    refused(client.call(&RangeRequest { sort_target: 9, ..range("") }).await, &error::EMPTY_KEY);
    refused(client.call(&RangeRequest { revision: 2, ..range("k") }).await, &error::FUTURE_REV);
    refused(client.compact(2).await, &error::FUTURE_REV);
    refused(client.compact(-1).await, &error::COMPACTED);
    assert_eq!(revision(&client.get("k").await.unwrap().header), 1, "nothing was written");
}

#[tokio::test]
async fn ranges_obey_every_option() {
    let server = Server::start().await;
    let client = server.client().await;
    // Revisions 2 to 6, then a second version of b at 7; values in another order than keys.
    for (key, value) in [("a", "5"), ("b", "4"), ("c", "3"), ("d", "2"), ("e", "1"), ("b", "0")] {
        client.put(key, value).await.unwrap();
    }
    let all = RangeRequest { key: vec![0].into(), range_end: vec![0].into(), ..Default::default() };
    let ask = async |request: RangeRequest| client.call(&request).await.unwrap();
    let select = async |request: RangeRequest| {
        let answer = ask(request).await;
        (keys(&answer.kvs).concat(), answer.count, answer.more)
    };
    let range = |key: &'static str, end: &'static str| RangeRequest {
        key: key.into(),
        range_end: end.into(),
        ..Default::default()
    };

    assert_eq!(select(all.clone()).await, ("abcde".into(), 5, false));
    assert_eq!(select(range("b", "d")).await, ("bc".into(), 2, false));
    assert_eq!(select(range("c", "\0")).await, ("cde".into(), 3, false));
    assert_eq!(select(range("d", "b")).await, ("".into(), 0, false));
    assert_eq!(select(range("b", "b")).await, ("".into(), 0, false));
    assert_eq!(select(RangeRequest { limit: 2, ..all.clone() }).await, ("ab".into(), 5, true));
    assert_eq!(select(RangeRequest { limit: 5, ..all.clone() }).await, ("abcde".into(), 5, false));
    assert_eq!(select(RangeRequest { limit: -1, ..all.clone() }).await, ("abcde".into(), 5, false));
    assert_eq!(select(RangeRequest { revision: 4, ..all.clone() }).await, ("abc".into(), 3, false));
    assert_eq!(select(RangeRequest { revision: -5, ..all.clone() }).await, ("abcde".into(), 5, false));
    assert_eq!(select(RangeRequest { count_only: true, limit: 2, ..all.clone() }).await, ("".into(), 5, false));
    assert_eq!(select(RangeRequest { serializable: true, ..all.clone() }).await, ("abcde".into(), 5, false));

    // Filters: what is kept lies between them, both ends included; the count is that of the range.
    assert_eq!(select(RangeRequest { min_mod_revision: 5, ..all.clone() }).await, ("bde".into(), 5, false));
    assert_eq!(select(RangeRequest { max_mod_revision: 4, ..all.clone() }).await, ("ac".into(), 5, false));
    assert_eq!(select(RangeRequest { max_create_revision: 3, ..all.clone() }).await, ("ab".into(), 5, false));
    assert_eq!(select(RangeRequest { min_create_revision: 5, limit: 1, ..all.clone() }).await, ("d".into(), 5, true));

    let sorted = |order: SortOrder, target: SortTarget, limit| RangeRequest {
        sort_order: order as i32,
        sort_target: target as i32,
        limit,
        ..all.clone()
    };
    let descend = SortOrder::Descend;
    assert_eq!(select(sorted(descend, SortTarget::Key, 0)).await, ("edcba".into(), 5, false));
    assert_eq!(select(sorted(descend, SortTarget::Key, 2)).await, ("ed".into(), 5, true));
    assert_eq!(select(sorted(SortOrder::Ascend, SortTarget::Value, 0)).await, ("bedca".into(), 5, false));
    assert_eq!(select(sorted(SortOrder::Ascend, SortTarget::Value, 2)).await, ("be".into(), 5, true));
    assert_eq!(select(sorted(descend, SortTarget::Mod, 2)).await, ("be".into(), 5, true));
    assert_eq!(select(sorted(descend, SortTarget::Create, 1)).await, ("e".into(), 5, true));
    assert_eq!(select(sorted(descend, SortTarget::Version, 1)).await, ("b".into(), 5, true));
    // A target without an order sorts what the limit has selected by key, and one key more, by which `more` is known.
    assert_eq!(select(sorted(SortOrder::None, SortTarget::Value, 3)).await, ("bdc".into(), 5, true));

    let lease = client.grant(0, 600).await.unwrap().id;
    client.call(&PutRequest { key: "a".into(), value: "5".into(), lease, ..Default::default() }).await.unwrap();
    let bare = ask(RangeRequest { keys_only: true, limit: 1, ..all.clone() }).await.kvs.remove(0);
    assert!(bare.value.is_empty());
    assert_eq!((bare.lease, bare.version, bare.create_revision, bare.mod_revision), (0, 2, 2, 8));
    let by_value = RangeRequest { keys_only: true, ..sorted(descend, SortTarget::Value, 1) };
    let bare = ask(by_value).await.kvs.remove(0);
    assert!(bare.value.is_empty());
    assert_eq!((&bare.key[..], bare.lease), (&b"a"[..], lease));
}

#[tokio::test]
async fn a_put_can_keep_what_it_does_not_name() {
    let server = Server::start().await;
    let client = server.client().await;
    let lease = client.grant(0, 600).await.unwrap().id;
    client.call(&PutRequest { key: "k".into(), value: "v".into(), lease, ..Default::default() }).await.unwrap();

    client.call(&PutRequest { key: "k".into(), ignore_value: true, lease, ..Default::default() }).await.unwrap();
    let kv = client.get("k").await.unwrap().kvs.remove(0);
    assert_eq!((&kv.value[..], kv.lease, kv.version), (&b"v"[..], lease, 2));

    let keep = PutRequest { key: "k".into(), value: "w".into(), ignore_lease: true, ..Default::default() };
    client.call(&keep).await.unwrap();
    let kv = client.get("k").await.unwrap().kvs.remove(0);
    assert_eq!((&kv.value[..], kv.lease, kv.version), (&b"w"[..], lease, 3));

    client.call(&PutRequest { key: "k".into(), ignore_value: true, ..Default::default() }).await.unwrap();
    let kv = client.get("k").await.unwrap().kvs.remove(0);
    assert_eq!((&kv.value[..], kv.lease, kv.version), (&b"w"[..], 0, 4));
}

#[tokio::test]
async fn a_transaction_is_one_revision_and_sees_itself() {
    let server = Server::start().await;
    let client = server.client().await;
    client.put("old", "x").await.unwrap();

    let txn = TxnRequest {
        compare: vec![op::version("new", 0), op::unchanged("old", 2)],
        success: vec![
            op::put("new", "1"),
            op::get("new"),
            op::delete("old"),
            op::txn(TxnRequest {
                // Compared against the store as it was before the whole transaction.
                compare: vec![op::version("new", 0)],
                success: vec![op::put("inner", "2"), op::get("old")],
                failure: vec![op::put("inner", "wrong")],
            }),
        ],
        failure: vec![op::get("old")],
    };
    let answer = client.call(&txn).await.unwrap();
    assert!(answer.succeeded);
    assert_eq!(revision(&answer.header), 3);
    let responses: Vec<&Response> = answer.responses.iter().map(|r| r.response.as_ref().unwrap()).collect();
    let [Response::ResponsePut(put), Response::ResponseRange(range), Response::ResponseDeleteRange(delete), inner] =
        responses[..]
    else {
        panic!("{responses:?}")
    };
    assert_eq!(put.header, Some(ResponseHeader { revision: 3, ..Default::default() }));
    assert_eq!((range.kvs[0].mod_revision, &range.kvs[0].value[..]), (3, &b"1"[..]));
    assert_eq!(delete.deleted, 1);
    let Response::ResponseTxn(inner) = inner else { panic!("{inner:?}") };
    assert!(inner.succeeded);
    assert_eq!(inner.header, Some(ResponseHeader::default()));
    let Some(Response::ResponseRange(gone)) = &inner.responses[1].response else { panic!("{inner:?}") };
    assert_eq!(gone.count, 0);

    let again = client.call(&txn).await.unwrap();
    assert!(!again.succeeded);
    assert_eq!((revision(&again.header), again.responses.len()), (3, 1), "a failed compare and a read change nothing");

    let everything = client.range(vec![0], vec![0]).await.unwrap();
    assert_eq!(keys(&everything.kvs), ["inner", "new"]);
    assert!(everything.kvs.iter().all(|kv| (kv.create_revision, kv.mod_revision, kv.version) == (3, 3, 1)));
}

#[tokio::test]
async fn a_transaction_that_cannot_be_done_whole_is_not_done_at_all() {
    let server = Server::start().await;
    let client = server.client().await;
    client.put("a", "1").await.unwrap();
    let txn = async |success: Vec<RequestOp>| client.call(&TxnRequest { success, ..Default::default() }).await;
    let put = |put: PutRequest| op::of(Request::RequestPut(put));
    let range =
        |revision| op::of(Request::RequestRange(RangeRequest { key: "a".into(), revision, ..Default::default() }));

    refused(txn(vec![op::put("b", "1"), op::put("b", "2")]).await, &error::DUPLICATE_KEY);
    refused(txn(vec![op::put("b", "1"), op::delete_range("a", "c")]).await, &error::DUPLICATE_KEY);
    refused(txn(vec![RequestOp { request: None }]).await, &error::KEY_NOT_FOUND);
    refused(txn(vec![op::put("", "1")]).await, &error::EMPTY_KEY);
    let leased = PutRequest { key: "c".into(), lease: 99, ..Default::default() };
    refused(txn(vec![op::put("b", "1"), put(leased)]).await, &error::LEASE_NOT_FOUND);
    let absent = PutRequest { key: "c".into(), ignore_value: true, ..Default::default() };
    refused(txn(vec![op::put("b", "1"), put(absent)]).await, &error::KEY_NOT_FOUND);
    refused(txn(vec![op::put("b", "1"), range(9)]).await, &error::FUTURE_REV);
    client.put("a", "2").await.unwrap();
    client.compact(3).await.unwrap();
    refused(txn(vec![op::put("b", "1"), range(2)]).await, &error::COMPACTED);

    let all = client.range(vec![0], vec![0]).await.unwrap();
    assert_eq!((keys(&all.kvs), revision(&all.header)), (vec!["a"], 3));
}

#[tokio::test]
async fn comparisons_cover_ranges_and_absent_keys() {
    use compare::{CompareResult::*, CompareTarget, TargetUnion};
    let server = Server::start().await;
    let client = server.client().await;
    for key in ["k1", "k2", "k3"] {
        client.put(key, "v").await.unwrap();
    }
    let holds = async |compare: Compare| {
        client.call(&TxnRequest { compare: vec![compare], ..Default::default() }).await.unwrap().succeeded
    };
    let compare = |result: compare::CompareResult, target: CompareTarget, key: &'static str, union| Compare {
        result: result as i32,
        target: target as i32,
        key: key.into(),
        target_union: union,
        ..Default::default()
    };
    let prefix = |compare: Compare| Compare { range_end: "l".into(), ..compare };
    let value = |text: &'static str| Some(TargetUnion::Value(text.into()));

    assert!(holds(prefix(compare(Equal, CompareTarget::Value, "k", value("v")))).await);
    assert!(holds(prefix(compare(Less, CompareTarget::Mod, "k", Some(TargetUnion::ModRevision(5))))).await);
    assert!(!holds(prefix(compare(Less, CompareTarget::Mod, "k", Some(TargetUnion::ModRevision(4))))).await);
    assert!(holds(compare(Greater, CompareTarget::Value, "k1", value("u"))).await);
    assert!(holds(compare(NotEqual, CompareTarget::Create, "k1", Some(TargetUnion::CreateRevision(1)))).await);
    assert!(holds(compare(Equal, CompareTarget::Lease, "k1", Some(TargetUnion::Lease(0)))).await);
    // An absent key compares as zeros, an absent operand as zero, but no value compares to an absent one.
    assert!(holds(compare(Equal, CompareTarget::Version, "x", None)).await);
    assert!(!holds(compare(Equal, CompareTarget::Value, "x", value(""))).await);
    assert!(!holds(compare(NotEqual, CompareTarget::Value, "x", value("v"))).await);
    // A result that nobody knows holds.
    assert!(holds(Compare { result: 77, ..compare(Equal, CompareTarget::Value, "k1", value("no")) }).await);
    refused(
        client.call(&TxnRequest { compare: vec![Compare::default()], ..Default::default() }).await,
        &error::EMPTY_KEY,
    );
}

#[tokio::test]
async fn compaction_ends_the_past_and_keeps_the_present() {
    let server = Server::start().await;
    let client = server.client().await;
    for value in ["1", "2", "3"] {
        client.put("k", value).await.unwrap();
    }
    client.put("gone", "").await.unwrap();
    client.delete("gone").await.unwrap();
    let at = async |revision: i64| {
        let request = RangeRequest { key: vec![0].into(), range_end: vec![0].into(), revision, ..Default::default() };
        client.call(&request).await
    };
    client.call(&CompactionRequest { revision: 4, physical: true }).await.unwrap();
    refused(client.compact(4).await, &error::COMPACTED);
    refused(client.compact(3).await, &error::COMPACTED);
    refused(client.compact(7).await, &error::FUTURE_REV);
    refused(at(3).await, &error::COMPACTED);
    let kept = at(4).await.unwrap();
    assert_eq!((keys(&kept.kvs), &kept.kvs[0].value[..], kept.kvs[0].version), (vec!["k"], &b"3"[..], 3));
    assert_eq!(keys(&at(5).await.unwrap().kvs), ["gone", "k"]);
    client.compact(6).await.unwrap();
    let now = at(6).await.unwrap();
    assert_eq!((keys(&now.kvs), now.kvs[0].create_revision, revision(&now.header)), (vec!["k"], 2, 6));
}

#[tokio::test]
async fn a_stream_of_chunks_is_the_range() {
    let server = Server::start().await;
    let client = server.client().await;
    for i in 0..300 {
        client.put(format!("k{i:03}"), vec![b'v'; 100 * (i % 7)]).await.unwrap();
    }
    let all = RangeRequest { key: "k".into(), range_end: "l".into(), ..Default::default() };
    for request in [
        all.clone(),
        RangeRequest { limit: 123, ..all.clone() },
        RangeRequest { revision: 50, ..all.clone() },
        RangeRequest { count_only: true, ..all.clone() },
        RangeRequest { keys_only: true, ..all.clone() },
        RangeRequest { key: "z".into(), ..all.clone() },
    ] {
        let whole = client.call(&request).await.unwrap();
        let mut chunks = client.range_stream(&request).await.unwrap();
        let mut bytes = Vec::new();
        while let Some(chunk) = chunks.next().await.unwrap() {
            bytes.extend(chunk.range_response.unwrap_or_default().encode_to_vec());
        }
        assert_eq!(RangeResponse::decode(&bytes[..]).unwrap(), whole, "{request:?}");
    }
    let sorted = RangeRequest { sort_order: SortOrder::Descend as i32, ..all.clone() };
    refused(client.range_stream(&sorted).await.unwrap().next().await, &error::RANGE_STREAM_NO_SORT);
    let filtered = RangeRequest { min_mod_revision: 3, ..all };
    refused(client.range_stream(&filtered).await.unwrap().next().await, &error::RANGE_STREAM_NO_FILTER);
}

#[tokio::test]
async fn writers_on_many_connections_lose_nothing() {
    let server = Server::start().await;
    let counter = async |client: Client, name: usize| {
        let mut wins = 0;
        for _ in 0..50 {
            let before = client.get("counter").await.unwrap();
            let (value, at) = before.kvs.first().map_or((0, 0), |kv| {
                (std::str::from_utf8(&kv.value).unwrap().parse::<u64>().unwrap(), kv.mod_revision)
            });
            let txn = TxnRequest {
                compare: vec![op::unchanged("counter", at)],
                success: vec![op::put("counter", (value + 1).to_string()), op::put(format!("by{name}"), "")],
                failure: vec![],
            };
            wins += u64::from(client.call(&txn).await.unwrap().succeeded);
        }
        wins
    };
    let mut tasks = Vec::new();
    for name in 0..4 {
        let client = server.client().await;
        tasks.push(tokio::spawn(async move { counter(client, name).await }));
    }
    let mut total = 0;
    for task in tasks {
        total += task.await.unwrap();
    }
    let kv = server.client().await.get("counter").await.unwrap().kvs.remove(0);
    assert_eq!(kv.value, total.to_string());
    assert_eq!((kv.version, kv.mod_revision), (total as i64, 1 + total as i64));
}

#[tokio::test]
async fn what_is_no_method_and_what_is_no_message_is_refused() {
    let server = Server::start().await;
    let client = server.client().await;
    let unknown = async |path: &str| client.unary::<_, PutResponse>(path, &PutRequest::default()).await.unwrap_err();
    let expect = |message: &str| Error::Status { code: Code::Unimplemented, message: message.into() };
    assert_eq!(unknown("/etcdserverpb.KV/Nope").await, expect("unknown method Nope for service etcdserverpb.KV"));
    assert_eq!(unknown("/no.Such/Thing").await, expect("unknown service no.Such"));

    let garbage = client.unary_bytes("/etcdserverpb.KV/Put", vec![0, 0, 0, 0, 2, 0xff, 0xff].into()).await.unwrap_err();
    assert_eq!(garbage.code(), Some(Code::Internal));
    assert!(garbage.message().starts_with("grpc: error unmarshalling request: "), "{garbage}");
    // A message that ends before its length: the code and the words of grpc-go.
    let torn = client.unary_bytes("/etcdserverpb.KV/Put", vec![0, 0, 0, 0, 200, 1].into()).await;
    assert_eq!(torn.unwrap_err(), Error::Status { code: Code::Unknown, message: "unexpected EOF".into() });
    assert_eq!(revision(&client.get("k").await.unwrap().header), 1);
}

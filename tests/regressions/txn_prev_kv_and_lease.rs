//! What a put takes on its own it takes within a transaction: to read for the previous value, to write all keys of the
//! lease that it hangs its key on. Releases of etcd let transactions past either.

use crate::server::{Server, refused, users};
use urd::error;
use urd_client::{
    Client,
    authpb::permission::Type,
    etcdserverpb::{DeleteRangeRequest, PutRequest, RequestOp, TxnRequest, request_op::Request},
    op,
};

/// The operation alone, in either branch, and two transactions deep.
fn ways(request: Request) -> Vec<TxnRequest> {
    let op = op::of(request);
    let branch = |success: Vec<RequestOp>, failure: Vec<RequestOp>| TxnRequest { compare: vec![], success, failure };
    let plain = branch(vec![op.clone()], vec![]);
    let not_taken = branch(vec![], vec![op]);
    let nested = branch(vec![op::txn(plain.clone())], vec![]);
    let deep = branch(vec![], vec![op::txn(branch(vec![op::txn(not_taken.clone())], vec![]))]);
    vec![plain, not_taken, nested, deep]
}

async fn denied(client: &Client, request: Request) {
    for txn in ways(request) {
        refused(client.call(&txn).await, &error::PERMISSION_DENIED);
    }
}

#[tokio::test]
async fn a_transaction_takes_what_its_parts_take() {
    let server = Server::start_with(&[users::CHEAP]).await;
    let client = server.client().await;
    users::add(&client, "writer", &[(Type::Write, "a", "b")]).await;
    client.grant(1, 600).await.unwrap();
    client.grant(2, 600).await.unwrap();
    client.call(&PutRequest { key: "secret".into(), lease: 1, ..Default::default() }).await.unwrap();
    client.put("a", "old").await.unwrap();
    let root = users::enable(&client).await;
    let writer = client.log_in("writer", "pw").await.unwrap();

    let put = |prev_kv, lease| PutRequest { key: "a".into(), prev_kv, lease, ..Default::default() };
    denied(&writer, Request::RequestPut(put(true, 0))).await;
    denied(&writer, Request::RequestPut(put(false, 1))).await;
    let delete = DeleteRangeRequest { key: "a".into(), prev_kv: true, ..Default::default() };
    denied(&writer, Request::RequestDeleteRange(delete)).await;
    refused(writer.call(&put(true, 0)).await, &error::PERMISSION_DENIED);
    refused(writer.call(&put(false, 1)).await, &error::PERMISSION_DENIED);
    assert_eq!(&root.get("a").await.unwrap().kvs[0].value[..], b"old");

    // A lease whose keys one may write is one's own to use.
    writer.call(&put(false, 2)).await.unwrap();
    for txn in ways(Request::RequestPut(put(false, 2))) {
        writer.call(&txn).await.unwrap();
    }
    root.call(&PutRequest { key: "other".into(), lease: 2, ..Default::default() }).await.unwrap();
    denied(&writer, Request::RequestPut(put(false, 2))).await;
}

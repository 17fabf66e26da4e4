//! A lease's keys are keys: to be told of them takes permission to read them, to end or prolong the lease permission to
//! write them. Releases of etcd answered these calls to anybody with a name.

use crate::server::{Server, refused, soon, users};
use urd::error;
use urd_client::{
    authpb::permission::Type,
    etcdserverpb::{LeaseKeepAliveRequest, LeaseLeasesRequest, PutRequest},
};

#[tokio::test]
async fn a_lease_is_as_secret_as_its_keys() {
    let server = Server::start_with(&[users::CHEAP]).await;
    let client = server.client().await;
    users::add(&client, "reader", &[(Type::Read, "a", "b")]).await;
    users::add(&client, "writer", &[(Type::Write, "a", "b")]).await;
    for (lease, keys) in [(1, vec!["a", "ab"]), (2, vec!["a1", "secret"]), (3, vec![])] {
        client.grant(lease, 600).await.unwrap();
        for key in keys {
            client.call(&PutRequest { key: key.into(), lease, ..Default::default() }).await.unwrap();
        }
    }
    let root = users::enable(&client).await;
    let (reader, writer) = (client.log_in("reader", "pw").await.unwrap(), client.log_in("writer", "pw").await.unwrap());
    let denied = &error::PERMISSION_DENIED;

    // How long it lasts is no secret, but to nobody.
    refused(client.time_to_live(2, false).await, &error::USER_EMPTY);
    assert!(reader.time_to_live(2, false).await.unwrap().ttl > 0);
    assert_eq!(reader.time_to_live(1, true).await.unwrap().keys.len(), 2);
    refused(writer.time_to_live(1, true).await, denied);
    refused(reader.time_to_live(2, true).await, denied);
    assert_eq!(root.time_to_live(2, true).await.unwrap().keys.len(), 2);
    refused(reader.call(&LeaseLeasesRequest {}).await, denied);
    assert_eq!(root.call(&LeaseLeasesRequest {}).await.unwrap().leases.len(), 3);

    for (who, id, permitted) in
        [(&writer, 1, true), (&writer, 2, false), (&writer, 3, true), (&reader, 1, false), (&root, 2, true)]
    {
        let (mut sender, mut receiver) = who.stream::<LeaseKeepAliveRequest>().await.unwrap();
        sender.send(&LeaseKeepAliveRequest { id }).unwrap();
        let answer = soon(receiver.next()).await;
        match permitted {
            true => assert_eq!(answer.unwrap().unwrap().ttl, 600),
            false => refused(answer, denied),
        }
    }
    refused(client.revoke(3).await, &error::USER_EMPTY);
    refused(writer.revoke(2).await, denied);
    refused(reader.revoke(1).await, denied);
    writer.revoke(1).await.unwrap();
    reader.revoke(3).await.unwrap();
    root.delete("secret").await.unwrap();
    assert_eq!(reader.call(&LeaseLeasesRequest {}).await.unwrap().leases.len(), 1, "nothing of it is secret now");
}

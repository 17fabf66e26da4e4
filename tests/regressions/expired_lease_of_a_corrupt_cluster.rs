//! A lease that has ended while the CORRUPT alarm keeps its keys: it was told to be gone, with its keys still there.

use std::time::Duration;

use crate::server::{Server, refused};
use urd::error;
use urd_client::etcdserverpb::{AlarmRequest, AlarmType, PutRequest, alarm_request::AlarmAction};

#[tokio::test]
async fn a_lease_is_not_gone_while_its_keys_are_there() {
    let server = Server::start().await;
    let client = server.client().await;
    client.grant(7, 2).await.unwrap();
    client.call(&PutRequest { key: "k".into(), lease: 7, ..Default::default() }).await.unwrap();
    let alarm =
        |action: AlarmAction| AlarmRequest { action: action as i32, member_id: 1, alarm: AlarmType::Corrupt as i32 };
    client.call(&alarm(AlarmAction::Activate)).await.unwrap();
    // As long as it lives, it lives on; then it can neither be renewed nor go.
    tokio::time::sleep(Duration::from_millis(2500)).await;
    refused(client.keep_alive_once(7).await, &error::CORRUPT);
    client.call(&alarm(AlarmAction::Deactivate)).await.unwrap();
    assert_eq!(client.keep_alive_once(7).await.unwrap().ttl, 0, "now it is gone");
    assert_eq!(client.range(vec![0], vec![0]).await.unwrap().count, 0);
}

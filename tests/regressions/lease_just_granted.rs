//! What a lease has left is less than what it was granted for from its first moment on, as clients take for granted (etcd's
//! own TestSessionTTLOptions among them). Asked within the millisecond of the grant, the answer was all of it.

use crate::server::Server;

#[tokio::test]
async fn a_lease_has_less_left_than_it_was_granted_for() {
    let server = Server::start().await;
    let client = server.client().await;
    for lease in 1..=50 {
        client.grant(lease, 90).await.unwrap();
        let left = client.time_to_live(lease, false).await.unwrap();
        assert!(left.ttl < left.granted_ttl, "{} s of {} s", left.ttl, left.granted_ttl);
    }
}

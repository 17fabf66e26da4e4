//! etcd answers an Authenticate of a user that does not exist without hashing anything, so that the time tells which
//! users there are. Here as many hashes are made for a user that is not there as for one that is; they are counted, for
//! time proves nothing on a busy machine.

use crate::server::{Server, refused, users};
use urd::error;

#[tokio::test]
async fn as_many_hashes_are_made_for_a_user_that_is_not_there() {
    let server = Server::start_with(&[users::CHEAP]).await;
    let client = server.client().await;
    users::add(&client, "ann", &[]).await;
    users::enable(&client).await;
    let hashes = async || users::metric(&server, "urd_password_hashes_total").await;
    for (name, password) in [("ann", "wrong"), ("nobody", "wrong"), ("", ""), ("nobody", &"x".repeat(100_000))] {
        let before = hashes().await;
        refused(client.log_in(name, password).await.map(drop), &error::AUTH_FAILED);
        assert_eq!(hashes().await - before, 1.0, "{name}");
    }
}

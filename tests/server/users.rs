//! Users for tests of whole servers.

use urd_client::{Client, authpb::permission::Type, etcdserverpb::AuthEnableRequest};

/// A hash costs little in a test.
pub const CHEAP: &str = "--bcrypt-cost=4";

/// Makes root, and turns users on. Gives root's client.
pub async fn enable(client: &Client) -> Client {
    client.add_user("root", "root").await.unwrap();
    client.grant_role("root", "root").await.unwrap();
    client.call(&AuthEnableRequest {}).await.unwrap();
    client.log_in("root", "root").await.unwrap()
}

/// Makes a user with a role of the same name, permitted these, and the password "pw".
pub async fn add(client: &Client, name: &str, permitted: &[(Type, &str, &str)]) {
    client.add_user(name, "pw").await.unwrap();
    client.add_role(name).await.unwrap();
    for (kind, key, end) in permitted {
        client.permit(name, *kind, key.to_string(), end.to_string()).await.unwrap();
    }
    client.grant_role(name, name).await.unwrap();
}

/// A metric without labels, as the server tells it.
pub async fn metric(server: &super::Server, name: &str) -> f64 {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut socket = tokio::net::TcpStream::connect(&server.address).await.unwrap();
    socket.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut text = String::new();
    socket.read_to_string(&mut text).await.unwrap();
    let line = text.lines().find(|line| line.split(' ').next() == Some(name));
    line.and_then(|line| line.split(' ').nth(1)).and_then(|value| value.parse().ok()).unwrap_or_else(|| {
        panic!("{name} is not among the metrics:\n{text}");
    })
}

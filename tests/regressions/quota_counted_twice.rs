//! A write that the quota has room for was refused where there was no room for another one like it: its bytes lay in the log
//! when it was applied, and counted beside its cost. It had been carried out, and the alarm was raised. (etcd: TestKVPutError.)

use crate::server::{Server, soon};
use urd::error;

#[tokio::test]
async fn a_write_counts_once_against_the_quota() {
    let server = Server::start_with(&["--quota-backend-bytes=2000000"]).await;
    let client = server.client().await;
    client.put("k", vec![b'v'; 1_500_000]).await.unwrap();
    // Now there is none. (etcd finds that out with its next commit.)
    let refusal = soon(async {
        loop {
            if let Err(error) = client.put("k", vec![b'v'; 1_500_000]).await {
                return error;
            }
        }
    });
    assert!(refusal.await.is(&error::NO_SPACE));
}

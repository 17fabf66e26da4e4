//! Defragment, the cure for a full disk, ended the member on one: it went on in a new segment before it knew whether
//! there was room for its file, and the next write of the log had nowhere to go.

use std::process::Command;

use crate::server::Server;
use urd::limits::SEGMENT_BYTES_DEFAULT;
use urd_client::etcdserverpb::DefragmentRequest;

#[tokio::test]
async fn without_room_for_a_segment_it_is_refused_and_the_member_goes_on() {
    let mut server = Server::prepare(&[]);
    let at = server.data_dir();
    std::fs::create_dir_all(&at).unwrap();
    // Room for one segment of the log, and not for two.
    let size = format!("size={}", SEGMENT_BYTES_DEFAULT / 2 * 3);
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "urd-test"]).arg(&at).status().unwrap();
    assert!(mounted.success(), "this test needs the right to mount a small disk");
    server.restart().await;
    let client = server.client().await;
    client.put("k", "v").await.unwrap();
    let refused = client.call(&DefragmentRequest {}).await.unwrap_err();
    assert!(refused.message().contains("No space left on device"), "{refused}");
    client.put("k", "still here").await.unwrap();
    assert_eq!(client.get("k").await.unwrap().kvs[0].value, "still here");
    server.kill();
    assert!(Command::new("umount").arg(&at).status().unwrap().success());
}

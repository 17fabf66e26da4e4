//! A record's header was proven by the log's salt and its segment's life alone: where a disk had written a block over another
//! one of the same form, a client was given the value that belongs elsewhere.

use std::{fs, os::unix::fs::FileExt};

use urd::{
    error::Code,
    wal::{
        disk::Dir,
        inspect::{Seen, walk},
        record::{HEADER_BYTES, Type},
    },
};
use urd_client::etcdserverpb::DefragmentRequest;

use crate::server::Server;

#[tokio::test]
async fn a_value_that_belongs_elsewhere_is_refused() {
    const LEN: usize = 512 * 1024;
    const BLOCK: usize = 4096;
    let mut server = Server::start().await;
    let client = server.client().await;
    // A segment that is too full to be repacked, so that Defragment makes a checkpoint and leaves it where it is.
    for key in 0..40 {
        client.put(format!("{key:07}"), format!("{key:07} ").repeat(LEN / 8)).await.unwrap();
    }
    client.call(&DefragmentRequest {}).await.unwrap();
    client.put("later", "x").await.unwrap();
    server.kill();

    // Puts of the first segment, each of which begins a write.
    let mut begins = Vec::new();
    walk(&Dir::look_at(&server.data_dir()), &mut |file, seen| {
        if let Seen::Record { record, .. } = seen
            && file.ends_with("00000001.seg")
            && record.header.kind == Type::Entry
            && record.header.len as usize > LEN
        {
            begins.push((record.payload().start - HEADER_BYTES, record.header.len as usize));
        }
    })
    .unwrap();
    let [(meant, len), (wrong, same)] = begins[10..12] else { panic!("{begins:?}") };
    assert!(len == same && meant % BLOCK == 0 && wrong % BLOCK == 0, "records of the same form: {begins:?}");
    let file = fs::File::options().read(true).write(true).open(server.data_dir().join("00000001.seg")).unwrap();
    let mut blocks = vec![0; (HEADER_BYTES + len).next_multiple_of(BLOCK)];
    file.read_exact_at(&mut blocks, meant as u64).unwrap();
    file.write_all_at(&blocks, wrong as u64).unwrap();

    server.restart().await;
    let client = server.client().await;
    let (mut right, mut refused) = (0, 0);
    for key in 0..40 {
        match client.get(format!("{key:07}")).await {
            Ok(got) => {
                assert!(got.kvs[0].value.starts_with(format!("{key:07} ").as_bytes()), "{key} has another's value");
                right += 1;
            }
            Err(cause) => {
                assert_eq!(cause.code(), Some(Code::DataLoss), "{cause}");
                refused += 1;
            }
        }
    }
    assert_eq!((right, refused), (39, 1));
}

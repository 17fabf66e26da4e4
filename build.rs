//! Compiles `proto/` without `protoc`: protox parses, prost generates. The descriptor set is kept beside the code
//! so that tests can hold every name and number against the table of facts.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let mut files: Vec<PathBuf> =
        fs::read_dir("proto")?.map(|entry| Ok(entry?.path())).collect::<Result<_, std::io::Error>>()?;
    files.retain(|path| path.extension().is_some_and(|ext| ext == "proto"));
    files.sort();

    let descriptors = protox::compile(&files, ["proto"])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;

    let mut config = prost_build::Config::new();
    // Request bodies stay slices of one buffer: no field is copied out while decoding.
    config.bytes(["."]);
    config.include_file("protos.rs");
    config.compile_fds(descriptors)?;
    Ok(())
}

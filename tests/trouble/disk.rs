//! A member's disk: a file system of its own in a file, which can fill up and lose its power. Losing power is the file
//! system's own shutdown without flushing its journal: what was not synced is gone, and whoever still writes or syncs is told
//! EIO.

use std::{
    fs::{self, File},
    io,
    os::fd::AsRawFd,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use crate::network::run;

/// Holes until it is written.
const BYTES: u64 = 3 << 30;

pub struct Disk {
    image: PathBuf,
    at: PathBuf,
}

impl Disk {
    pub fn new(home: &Path, name: &str) -> Self {
        let (image, at) = (home.join(format!("{name}.disk")), home.join(name));
        let file = File::create(&image).expect("the disk's file");
        file.set_len(BYTES).expect("a file with a hole");
        fs::create_dir(&at).expect("a folder to mount on");
        run(&format!("mkfs.ext4 -q -b 4096 {}", image.display()));
        let disk = Disk { image, at };
        disk.mount();
        disk
    }

    pub fn data_dir(&self) -> PathBuf {
        self.at.join("data")
    }

    fn mount(&self) {
        run(&format!("mount -o loop {} {}", self.image.display(), self.at.display()));
    }

    /// Takes all room but a little, until `make_room`.
    pub fn fill_up(&self) {
        let free = || {
            let output = Command::new("df").args(["--output=avail", "-B1"]).arg(&self.at).output().expect("df(1)");
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            text.lines().nth(1).and_then(|line| line.trim().parse::<u64>().ok()).expect("a number of bytes")
        };
        let room = free().saturating_sub(64 << 10);
        let file = File::create(self.filler()).expect("a disk with room for a name");
        // SAFETY: the descriptor is open.
        unsafe { libc::posix_fallocate(file.as_raw_fd(), 0, room as libc::off_t) };
    }

    /// What had filled it may have been lost with its power.
    pub fn make_room(&self) {
        match fs::remove_file(self.filler()) {
            Err(cause) if cause.kind() != io::ErrorKind::NotFound => panic!("{}: {cause}", self.filler().display()),
            _ => {}
        }
    }

    fn filler(&self) -> PathBuf {
        self.at.join("filler")
    }

    /// From now on nothing is written, and everybody who tries is told so.
    pub fn lose_power(&self) {
        /// `_IOR('X', 125, __u32)`, and its manner: without the journal. (fs/ext4/ext4.h.)
        const SHUTDOWN: libc::c_ulong = 0x8004_587d;
        const WITHOUT_FLUSH: u32 = 2;
        let (root, manner) = (File::open(&self.at).expect("it is mounted"), WITHOUT_FLUSH);
        // SAFETY: the call reads four bytes at the address.
        let result = unsafe { libc::ioctl(root.as_raw_fd(), SHUTDOWN, &raw const manner) };
        assert!(result == 0, "the file system cannot be shut down: {}", io::Error::last_os_error());
    }

    /// What was durable is there again. Nobody may have a file of it open.
    pub fn power_on(&self) {
        let begin = Instant::now();
        while !Command::new("umount").arg(&self.at).output().expect("umount(8)").status.success() {
            assert!(begin.elapsed() < Duration::from_secs(30), "{} stays busy", self.at.display());
            std::thread::sleep(Duration::from_millis(20));
        }
        self.mount();
    }
}

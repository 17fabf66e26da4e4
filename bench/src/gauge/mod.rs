//! What a server takes: CPU, memory, disk, and whether it syncs its log. Read from the kernel's own books (`/proc`,
//! cgroups, block devices), never from what the server says of itself.

mod cgroup;
mod disk;
mod proc;
mod sync;
mod trace;

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

pub use cgroup::{Cgroup, MemoryLimit};
pub use disk::{Device, drop_page_cache, used_bytes};
pub use proc::{Memory, cpu_of, driver_cpu, memory_of, reset_peak};
pub use sync::watch_syncs;

/// Where CPU figures come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CpuSource {
    /// `cpu.stat` of a cgroup of the server's own: kernel threads that work for it in it are included.
    Cgroup,
    /// All threads of the process, io_uring's workers among them.
    Process,
}

impl CpuSource {
    pub fn text(self) -> &'static str {
        match self {
            CpuSource::Cgroup => "cpu.stat of the server's own cgroup",
            CpuSource::Process => "schedstat of all threads of the server's process, its ring's workers among them",
        }
    }
}

/// The instruments on one server.
#[derive(Clone)]
pub struct Gauge {
    pub pid: u32,
    pub cgroup: Option<Cgroup>,
    /// Where its data lie, if that is known.
    pub data_dir: Option<PathBuf>,
    /// Members of its cluster whose CPU counts with its own.
    pub beside: Vec<Gauge>,
}

impl Gauge {
    pub fn cpu_source(&self) -> CpuSource {
        if self.cgroup.is_some() { CpuSource::Cgroup } else { CpuSource::Process }
    }

    pub fn cpu(&self) -> Duration {
        let own = self.cgroup.as_ref().and_then(Cgroup::cpu).unwrap_or_else(|| cpu_of(self.pid));
        own + self.beside.iter().map(Gauge::cpu).sum::<Duration>()
    }

    pub fn memory(&self) -> Option<Memory> {
        memory_of(self.pid)
    }

    /// Bytes on disk, as `du` counts them.
    pub fn disk(&self) -> Option<u64> {
        self.data_dir.as_deref().map(used_bytes)
    }
}

/// CPU of the server and of the driver from a moment on.
pub struct Stopwatch {
    gauge: Option<Gauge>,
    server: Duration,
    driver: Duration,
    started: Instant,
}

pub struct Lap {
    pub seconds: f64,
    pub cpu_seconds: Option<f64>,
    /// Of one core.
    pub driver_cpu_share: f64,
}

impl Stopwatch {
    pub fn start(gauge: Option<&Gauge>) -> Self {
        let server = gauge.map_or(Duration::ZERO, Gauge::cpu);
        Stopwatch { gauge: gauge.cloned(), server, driver: driver_cpu(), started: Instant::now() }
    }

    pub fn lap(&self) -> Lap {
        let seconds = self.started.elapsed().as_secs_f64();
        let driver_cpu_share = (driver_cpu() - self.driver).as_secs_f64() / seconds;
        let cpu_seconds = self.gauge.as_ref().map(|gauge| gauge.cpu().saturating_sub(self.server).as_secs_f64());
        Lap { seconds, cpu_seconds, driver_cpu_share }
    }
}

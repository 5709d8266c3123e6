//! What the process uses, under the names that all Prometheus clients give it, read at each scrape.

use procfs::{WithCurrentSystemInfo as _, process::Process};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{counter::ConstCounter, gauge::ConstGauge},
};

/// Reads `/proc/self`.
#[derive(Debug)]
pub(super) struct OfProcess;

/// One reading. A value that the system does not tell is missing.
#[derive(Default)]
struct Usage {
    cpu_seconds: Option<f64>,
    resident_bytes: Option<u64>,
    virtual_bytes: Option<u64>,
    start_time_seconds: Option<f64>,
    open_files: Option<u64>,
    most_files: Option<u64>,
}

impl Usage {
    fn read() -> Self {
        let Ok(process) = Process::myself() else { return Self::default() };
        let stat = process.stat().ok();
        let ticks = |ticks: u64| {
            #[expect(clippy::cast_precision_loss, reason = "a clock of 100 Hz runs 2.8 million years until then")]
            let seconds = ticks as f64 / procfs::ticks_per_second() as f64;
            seconds
        };
        let started = stat.as_ref().and_then(|stat| Some((procfs::boot_time_secs().ok()?, stat.starttime)));
        #[expect(clippy::cast_precision_loss, reason = "a time in seconds is exact for 285 million years")]
        let start_time_seconds = started.map(|(boot, after)| boot as f64 + ticks(after));
        Self {
            cpu_seconds: stat.as_ref().map(|stat| ticks(stat.utime + stat.stime)),
            resident_bytes: stat.as_ref().map(|stat| stat.rss_bytes().get()),
            virtual_bytes: stat.as_ref().map(|stat| stat.vsize),
            start_time_seconds,
            open_files: process.fd_count().ok().and_then(|count| u64::try_from(count).ok()),
            most_files: process.limits().ok().and_then(|limits| match limits.max_open_files.soft_limit {
                procfs::process::LimitValue::Value(most) => Some(most),
                procfs::process::LimitValue::Unlimited => None,
            }),
        }
    }
}

impl Collector for OfProcess {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let usage = Usage::read();
        let mut encode = |name: &str, help: &str, metric: Option<&dyn EncodeMetric>| match metric {
            Some(metric) => metric.encode(encoder.encode_descriptor(name, help, None, metric.metric_type())?),
            None => Ok(()),
        };
        let cpu = usage.cpu_seconds.map(ConstCounter::new);
        encode("process_cpu_seconds", "User and system CPU time.", cpu.as_ref().map(|metric| metric as _))?;
        for (name, help, value) in [
            ("process_resident_memory_bytes", "Resident memory.", usage.resident_bytes),
            ("process_virtual_memory_bytes", "Virtual memory.", usage.virtual_bytes),
            ("process_open_fds", "Open file descriptors.", usage.open_files),
            ("process_max_fds", "The most file descriptors that may be open.", usage.most_files),
        ] {
            let gauge = value.map(ConstGauge::new);
            encode(name, help, gauge.as_ref().map(|metric| metric as _))?;
        }
        let started = usage.start_time_seconds.map(ConstGauge::new);
        let help = "When the process started, in seconds since the epoch.";
        encode("process_start_time_seconds", help, started.as_ref().map(|metric| metric as _))
    }
}

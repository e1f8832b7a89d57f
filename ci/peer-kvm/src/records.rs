//! The lines that `xtask` reads beside the guest's own, in the image's form.

use std::fmt::Write;
use std::fs;

use crate::Failure;

/// Where Linux shows what KVM counts, all machines together; here there is only one.
const COUNTERS: &str = "/sys/kernel/debug/kvm";

/// What has been noted and not told yet.
#[derive(Debug, Default)]
pub(crate) struct Records {
    section: Option<(u32, Vec<Counter>)>,
    zaps: Vec<u64>,
}

type Counter = (String, i64);

impl Records {
    /// Making the machine and bringing it to the guest's first instructions took so long.
    #[expect(clippy::unused_self, reason = "told at once, like the others through the records")]
    pub(crate) fn created(&self, ticks: u64) {
        println!("json: {{\"schema\":1,\"record\":\"bench_create\",\"ticks\":{ticks}}}");
    }

    pub(crate) fn zap(&mut self, ticks: u64) {
        self.zaps.push(ticks);
    }

    pub(crate) fn begin(&mut self, id: u32) -> Result<(), Failure> {
        self.tell_zaps();
        self.section = Some((id, counters()?));
        Ok(())
    }

    pub(crate) fn end(&mut self, id: u32) -> Result<(), Failure> {
        self.tell_zaps();
        let Some((_, before)) = self.section.take().filter(|(begun, _)| *begun == id) else {
            return Ok(());
        };
        let mut line =
            format!("json: {{\"schema\":1,\"record\":\"bench_section\",\"section\":{id}");
        for ((name, before), (_, after)) in before.iter().zip(counters()?) {
            write!(line, ",\"{name}\":{}", after - before)?;
        }
        println!("{line}}}");
        Ok(())
    }

    pub(crate) fn tell_zaps(&mut self) {
        if !self.zaps.is_empty() {
            let ticks = std::mem::take(&mut self.zaps);
            println!(
                "json: {{\"schema\":1,\"record\":\"bench_zap\",\"pages\":0,\"left_out\":0,\"ticks\":{ticks:?}}}"
            );
        }
    }
}

/// Every counter that KVM shows; none where the file system for it is not mounted.
fn counters() -> Result<Vec<Counter>, Failure> {
    let Ok(folder) = fs::read_dir(COUNTERS) else { return Ok(Vec::new()) };
    let mut all = Vec::new();
    for entry in folder {
        let entry = entry?;
        if !entry.file_type()?.is_file() {
            continue;
        }
        let name = entry.file_name().to_string_lossy().into_owned();
        let value = fs::read_to_string(entry.path()).ok().and_then(|text| text.trim().parse().ok());
        all.extend(value.map(|value| (name, value)));
    }
    all.sort();
    Ok(all)
}

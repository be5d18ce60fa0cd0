//! This machine, as the operating system describes it. What it does not say is NULL.

use sea_orm::ActiveValue::Set;
use sea_orm::sea_query::OnConflict;
use sea_orm::{ColumnTrait, DbErr, EntityTrait, QueryFilter, QuerySelect};

use super::entity::hardware_platform::{ActiveModel, Column, Entity};

/// The row of this machine: found by its fingerprint, or made.
pub async fn register(db: &impl sea_orm::ConnectionTrait, now_us: i64) -> Result<Option<i64>, DbErr> {
    let machine = Machine::detect();
    let fingerprint = machine.fingerprint();
    let row = ActiveModel {
        hardware_type: Set("cpu".to_owned()),
        device_name: Set(machine.cpu),
        compute_units: Set(machine.cores),
        memory_capacity: Set(machine.memory_bytes),
        detected_at: Set(now_us),
        os: Set(Some(machine.os)),
        arch: Set(Some(std::env::consts::ARCH.to_owned())),
        is_simulated: Set(false),
        fingerprint: Set(fingerprint.clone()),
        ..Default::default()
    };
    let known = OnConflict::column(Column::Fingerprint).update_column(Column::DetectedAt).to_owned();
    Entity::insert(row).on_conflict(known).exec_without_returning(db).await?;
    Entity::find()
        .select_only()
        .column(Column::HardwareId)
        .filter(Column::Fingerprint.eq(fingerprint))
        .into_tuple()
        .one(db)
        .await
}

struct Machine {
    cpu: Option<String>,
    cores: Option<i64>,
    memory_bytes: Option<i64>,
    os: String,
}

impl Machine {
    fn detect() -> Self {
        let read = |path| std::fs::read_to_string(path).unwrap_or_default();
        let os = field(&read("/etc/os-release"), "PRETTY_NAME", '=').map(|name| name.trim_matches('"').to_owned());
        Self {
            cpu: field(&read("/proc/cpuinfo"), "model name", ':'),
            cores: std::thread::available_parallelism().ok().and_then(|n| i64::try_from(n.get()).ok()),
            memory_bytes: field(&read("/proc/meminfo"), "MemTotal", ':')
                .and_then(|text| text.strip_suffix("kB")?.trim().parse::<i64>().ok())
                .map(|kib| kib * 1024),
            os: os.unwrap_or_else(|| std::env::consts::OS.to_owned()),
        }
    }

    fn fingerprint(&self) -> String {
        let text = |value: Option<&str>| value.unwrap_or("-").to_owned();
        [
            text(self.cpu.as_deref()),
            text(self.cores.map(|n| n.to_string()).as_deref()),
            text(self.memory_bytes.map(|n| n.to_string()).as_deref()),
            self.os.clone(),
            std::env::consts::ARCH.to_owned(),
        ]
        .join("|")
    }
}

/// The first value of a key in `key : value` lines.
fn field(text: &str, key: &str, separator: char) -> Option<String> {
    text.lines()
        .filter_map(|line| line.split_once(separator))
        .find(|(name, _)| name.trim() == key)
        .map(|(_, value)| value.trim().to_owned())
        .filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_proc_files_are_read() {
        let info = "processor\t: 0\nmodel name\t: A CPU @ 2 GHz\nmodel name\t: B\n";
        assert_eq!(field(info, "model name", ':').as_deref(), Some("A CPU @ 2 GHz"));
        assert_eq!(field(info, "absent", ':'), None);
    }
}

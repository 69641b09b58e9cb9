//! Alerts: what a person has to look at.
//!
//! Owns: what an alert is, and who is told. Does not own: when one is raised (a log line with a field `alert`), how often
//! (machines/alerts), any service (adapters).

use async_trait::async_trait;

use crate::model::fault::Result;

/// One alert.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Alert {
    /// Its name: `quarantine`, `gap`, `overflow`, …
    pub name: String,
    /// One sentence. Never a value of a record.
    pub message: String,
    /// Further fields by name, in the order they were written.
    pub fields: Vec<(String, String)>,
    /// When, microseconds since 1970.
    pub at_us: i64,
    /// Equal alerts (name and subject) since the last one that was told.
    pub repeated: u64,
}

impl Alert {
    /// What it is about: alerts of one name about different subjects are different.
    pub fn subject(&self) -> &str {
        let about = ["shard", "table", "sink"];
        let found = about.iter().find_map(|name| self.fields.iter().find(|(field, _)| field == name));
        found.map_or("", |(_, value)| value)
    }

    /// As text for people.
    pub fn text(&self) -> String {
        let mut text = self.message.clone();
        for (name, value) in &self.fields {
            text.push_str(&format!("\n{name}: {value}"));
        }
        if self.repeated > 0 {
            text.push_str(&format!("\n({} more like it since the last message)", self.repeated));
        }
        text
    }
}

/// Somebody who is told of alerts.
#[async_trait]
pub trait AlertSink: Send + Sync {
    /// Its name, for people.
    fn name(&self) -> &str;
    /// Tells, once. It may come twice: an alert is no count.
    async fn raise(&self, alert: &Alert) -> Result<()>;
}

//! Gold: every visible window is the revision that its row names, and takes in exactly the partials of its vector.
//!
//! Owns: window rows against chains, visible objects and `gold_windows` against window rows. Does not own: computing Gold again
//! from Silver (recompute).

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;

use arrow::array::{Array, AsArray};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, TimestampMicrosecondType};
use sluicebox_actors::model::epoch::Hash;
use sluicebox_actors::model::fault::Result;
use sluicebox_actors::model::position::ShardId;
use sluicebox_actors::model::row::{WindowRow, WindowStatus};

use super::epochs::ShardFacts;
use super::outputs::measured;
use super::report::{Finding, PendingWindow, Report};
use crate::read::files;
use crate::read::letter_rows::timestamp;
use crate::read::sources::{Sources, Visible, blocking, hour_folder, segment, visible};

/// Looks at a window that is being replaced this often before it is called wrong.
const LOOKS: u32 = 5;
const AGAIN: &str = "restore the object from a backup";

/// Facts of all shards.
pub type Facts = BTreeMap<ShardId, ShardFacts>;

/// Rows of one table against the chains: vectors, counts, what is pending.
pub fn against_chains(table: &str, rows: &[WindowRow], facts: &Facts, report: &mut Report) {
    const SAYS: &str = "records in window rows + pending = on_time + late";
    let scope = format!("table {table}");
    let whole = facts.values().all(|shard| !shard.broken);
    let by_start: HashMap<i64, &WindowRow> = rows.iter().map(|row| (row.start_us, row)).collect();
    let mut seen: BTreeMap<i64, Sums> = BTreeMap::new();
    for (shard, facts) in facts {
        let windows = facts.touches.iter().filter(|((name, _), _)| name == table);
        for ((_, start), touches) in windows {
            let limit = by_start.get(start).and_then(|row| row.vector.get(shard)).copied().unwrap_or(0);
            let sums = seen.entry(*start).or_default();
            for touch in touches {
                if touch.ordinal <= limit {
                    sums.on_time += touch.on_time;
                    sums.late += touch.late;
                } else {
                    sums.pending += touch.on_time + touch.late;
                }
            }
        }
    }
    let mut emitted = 0;
    for row in rows {
        let sums = seen.get(&row.start_us).copied().unwrap_or_default();
        // A row without a revision only holds a base: its counts are of no emission yet.
        if row.revision > 0 {
            emitted += row.counts.on_time + row.counts.late;
        }
        report.find_all(row_findings(table, row, &sums, facts, whole));
    }
    let total = seen.values().map(|sums| sums.on_time + sums.late + sums.pending).sum();
    let pending: u64 = seen.values().map(|sums| sums.pending).sum();
    if whole {
        report.add(4, &scope, SAYS, emitted + pending, total, "window rows and epoch objects");
    }
    let waiting = seen.iter().filter(|(_, sums)| sums.pending > 0);
    report.pending.extend(waiting.map(|(start, sums)| PendingWindow {
        table: table.to_owned(),
        window_us: *start,
        records: sums.pending,
    }));
}

#[derive(Clone, Copy, Default)]
struct Sums {
    on_time: u64,
    late: u64,
    pending: u64,
}

fn row_findings(table: &str, row: &WindowRow, sums: &Sums, facts: &Facts, whole: bool) -> Vec<Finding> {
    let mut out = Vec::new();
    let mut wrong = |what: String| out.push(Finding::error(what, AGAIN).in_window(table, row.start_us));
    for (shard, ordinal) in &row.vector {
        let known = facts
            .get(shard)
            .map(|facts| facts.touches.get(&(table.to_owned(), row.start_us)).map_or(0, |touches| touches.len() as u64));
        match known {
            Some(known) if *ordinal > known && whole => {
                wrong(format!("Gold took {ordinal} epochs of {shard} in, but only {known} were committed for this window"));
            }
            Some(_) => {}
            None => wrong(format!("Gold took epochs of {shard} in, which has no row")),
        }
    }
    if whole && row.revision > 0 && (row.counts.on_time, row.counts.late) != (sums.on_time, sums.late) {
        wrong("the row's counts are not those of the epochs in its vector".to_owned());
    }
    let too_late: u64 = facts.values().filter_map(|f| f.too_late.get(&(table.to_owned(), row.start_us))).sum();
    if whole && row.counts.too_late > too_late {
        wrong("the row counts more records too late than were committed".to_owned());
    }
    if row.status == WindowStatus::Sealed && sums.pending > 0 {
        wrong(format!("the window is sealed, but {} committed records are not in it", sums.pending));
    }
    if let Some(base) = row.base.as_ref().filter(|_| whole) {
        let mut sums = (0, 0);
        for (shard, ordinal) in &base.vector {
            let touches = facts.get(shard).and_then(|facts| facts.touches.get(&(table.to_owned(), row.start_us)));
            for touch in touches.into_iter().flatten().filter(|touch| touch.ordinal <= *ordinal) {
                sums = (sums.0 + touch.on_time, sums.1 + touch.late);
            }
        }
        if sums != (base.counts.on_time, base.counts.late) {
            wrong("the base's counts are not those of the epochs it stands for".to_owned());
        }
    }
    if row.content.is_none() && row.revision > 0 {
        wrong("the row has a revision and no content".to_owned());
    }
    if row.published > row.revision {
        wrong("readers were shown a revision that was never committed".to_owned());
    }
    out
}

/// Visible objects and `gold_windows` of one table against its rows, hour by hour.
pub async fn visible_objects(sources: &Sources, table: &str, rows: &[WindowRow], report: &mut Report) -> Result<()> {
    let mut hours: BTreeMap<String, Vec<i64>> = BTreeMap::new();
    for row in rows {
        hours.entry(hour_folder(row.start_us)).or_default().push(row.start_us);
    }
    for under in [format!("gold/{}", segment(table)), format!("gold_windows/table={}", segment(table))] {
        let data = sources.data.clone();
        for file in blocking(move || visible(&data, &under)).await? {
            if let (Some(day), Some(hour)) = (file.value("dt"), file.value("hour")) {
                hours.entry(format!("dt={day}/hour={hour}")).or_default();
            }
        }
    }
    for (hour, starts) in &hours {
        let mut findings = Vec::new();
        // A window may be replaced between reading its row and its object; a stable state shows itself on another look.
        for looks in 0..LOOKS {
            let rows = if looks == 0 {
                let mut rows = Vec::new();
                for start in starts {
                    rows.extend(sources.rows.window(table, *start).await?);
                }
                rows
            } else {
                let mut rows = sources.rows.windows(table).await?;
                rows.retain(|row| hour_folder(row.start_us) == *hour);
                rows
            };
            findings = look(sources, table, hour, &rows).await?;
            if findings.is_empty() {
                break;
            }
        }
        report.find_all(findings);
    }
    Ok(())
}

/// One look at one hour, after its rows were read.
async fn look(sources: &Sources, table: &str, hour: &str, rows: &[WindowRow]) -> Result<Vec<Finding>> {
    let (data, gold) = (sources.data.clone(), format!("gold/{}/{hour}", segment(table)));
    let list = format!("gold_windows/table={}/{hour}", segment(table));
    let (objects, listed) = blocking(move || {
        let mut objects = Vec::new();
        for file in visible(&data, &gold)? {
            if let Some((_, hash)) = measured(&file.path)? {
                objects.push((file, hash));
            }
        }
        Ok((objects, window_files(&data, &list)?))
    })
    .await?;
    let mut out = Vec::new();
    compare_objects(table, rows, objects, &mut out);
    compare_listed(table, rows, listed, &mut out);
    Ok(out)
}

fn compare_objects(table: &str, rows: &[WindowRow], mut objects: Vec<(Visible, Hash)>, out: &mut Vec<Finding>) {
    let mut between = 0;
    for row in rows {
        let Some(content) = &row.content else { continue };
        match objects.iter().position(|(_, hash)| *hash == content.sha256) {
            Some(index) => drop(objects.swap_remove(index)),
            None if row.published < row.revision => between += 1,
            None => {
                let what = format!("the visible object is not revision {}: missing, older, or another window's", row.revision);
                out.push(Finding::error(what, AGAIN).in_window(table, row.start_us));
            }
        }
    }
    for (file, _) in objects.into_iter().skip(between) {
        let what = format!("{} is not the content of any window of its hour", file.relative);
        out.push(Finding::error(what, "remove the file, or restore the one that belongs there").in_table(table));
    }
}

/// One row of `gold_windows`, as far as it is compared.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Listed {
    start_us: i64,
    revision: u64,
    status: String,
    counts: [u64; 4],
    overflow: bool,
}

fn compare_listed(table: &str, rows: &[WindowRow], listed: Vec<Listed>, out: &mut Vec<Finding>) {
    const REMEDY: &str = "restore the file of gold_windows from a backup; Gold itself is not touched by it";
    let mut by_start: BTreeMap<i64, Vec<Listed>> = BTreeMap::new();
    for row in listed {
        by_start.entry(row.start_us).or_default().push(row);
    }
    for row in rows.iter().filter(|row| row.published > 0) {
        let found = by_start.remove(&row.start_us).unwrap_or_default();
        let what = match found.as_slice() {
            [] => "the window has no row in gold_windows",
            [_, _, ..] => "the window has more than one row in gold_windows",
            [one] if row.published == row.revision && *one != expected(row) => {
                "gold_windows does not say what the window's row says"
            }
            [_] => continue,
        };
        out.push(Finding::error(what, REMEDY).in_window(table, row.start_us));
    }
    let shown: Vec<i64> = rows.iter().filter(|row| row.published == 0).map(|row| row.start_us).collect();
    for start in by_start.into_keys().filter(|start| !shown.contains(start)) {
        out.push(Finding::error("gold_windows lists a window that has no row", REMEDY).in_window(table, start));
    }
}

fn expected(row: &WindowRow) -> Listed {
    Listed {
        start_us: row.start_us,
        revision: row.revision,
        status: row.status.as_str().to_owned(),
        counts: [row.counts.on_time, row.counts.late, row.counts.too_late, row.rows],
        overflow: row.overflow,
    }
}

fn window_files(data: &Path, under: &str) -> Result<Vec<Listed>> {
    let names = ["revision", "on_time", "late", "too_late", "rows"];
    let mut fields = vec![Field::new("window_start", timestamp(), true), Field::new("status", DataType::Utf8, true)];
    fields.push(Field::new("overflow", DataType::Boolean, true));
    fields.extend(names.map(|name| Field::new(name, DataType::Int64, true)));
    let wanted = Arc::new(Schema::new(fields));
    let mut out = Vec::new();
    for file in visible(data, under)? {
        let batches = match files::open(&file.path, &wanted) {
            Err(fault) if files::is_vanished(&fault) => continue,
            other => other?,
        };
        for batch in batches {
            let batch = batch?;
            let starts = batch.column(0).as_primitive::<TimestampMicrosecondType>();
            let (status, overflow) = (batch.column(1).as_string::<i32>(), batch.column(2).as_boolean());
            let number = |column: usize, row: usize| batch.column(column).as_primitive::<Int64Type>().value(row).unsigned_abs();
            out.extend((0..batch.num_rows()).map(|row| Listed {
                start_us: starts.value(row),
                revision: number(3, row),
                status: if status.is_null(row) { String::new() } else { status.value(row).to_owned() },
                counts: [number(4, row), number(5, row), number(6, row), number(7, row)],
                overflow: !overflow.is_null(row) && overflow.value(row),
            }));
        }
    }
    Ok(out)
}

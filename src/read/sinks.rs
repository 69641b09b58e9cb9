//! `sinks`: what every sink has, and what waits for it.
//!
//! Owns: joining the rows of sinks, windows and shards with the run's own status. Does not own: any of these, the settings.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use sluicebox_actors::model::fault::{Fault, Kind, Result};
use sluicebox_actors::model::feed::{Feed, LetterFeed, WindowFeed};
use sluicebox_actors::model::position::ShardId;

use super::sources::{Sources, blocking};
use super::status::{RunStatus, SinkStatus};

/// A sink as the settings name it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Named {
    /// Its name.
    pub name: String,
    /// Its Gold tables; none = it is given letters.
    pub tables: Option<Vec<String>>,
}

/// What a sink has of one Gold table, or of the letters of one shard.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SinkView {
    /// The sink.
    pub sink: String,
    /// `gold/<table>` or `letters/<shard>`.
    pub of: String,
    /// Windows whose newest revision it has; the epoch up to which it has all letters.
    pub has: u64,
    /// Windows that are published; the newest epoch.
    pub of_newest: u64,
    /// Letters that it was handed.
    pub letters: Option<u64>,
    /// Rows of the newest revisions that it refused, with why.
    pub refused: u64,
    /// From the run's status.
    pub run: Option<SinkStatus>,
}

/// All sinks, table by table and shard by shard.
pub async fn view(sources: &Sources, sinks: &[Named], now_us: i64) -> Result<Vec<SinkView>> {
    let worker = sources.worker.clone();
    let status = blocking(move || RunStatus::read(&worker)).await?.filter(|status| status.is_of_the_living(now_us));
    let mut out = Vec::new();
    for sink in sinks {
        let run = status.as_ref().and_then(|status| status.sinks.iter().find(|run| run.sink == sink.name)).cloned();
        let rows = sources.rows.feeds(&sink.name).await?;
        match &sink.tables {
            Some(tables) => {
                let windows = rows.into_iter().filter_map(|row| match row.fed {
                    Feed::Window(fed) => Some(fed),
                    Feed::Sink { .. } | Feed::Letters(_) => None,
                });
                out.extend(of_gold(sources, sink, tables, windows.collect(), run.as_ref()).await?);
            }
            None => {
                let letters = rows.into_iter().filter_map(|row| match row.fed {
                    Feed::Letters(fed) => Some((fed.shard.clone(), fed)),
                    Feed::Sink { .. } | Feed::Window(_) => None,
                });
                out.extend(of_letters(sources, sink, letters.collect(), run.as_ref()).await?);
            }
        }
    }
    Ok(out)
}

async fn of_gold(
    sources: &Sources,
    sink: &Named,
    tables: &[String],
    fed: Vec<WindowFeed>,
    run: Option<&SinkStatus>,
) -> Result<Vec<SinkView>> {
    let fed: BTreeMap<(&str, i64), &WindowFeed> = fed.iter().map(|fed| ((fed.table.as_str(), fed.start_us), fed)).collect();
    let mut out = Vec::new();
    for table in tables {
        let mut view = SinkView {
            sink: sink.name.clone(),
            of: format!("gold/{table}"),
            has: 0,
            of_newest: 0,
            letters: None,
            refused: 0,
            run: run.cloned(),
        };
        for window in sources.rows.windows(table).await?.into_iter().filter(|window| window.published > 0) {
            let has = fed.get(&(table.as_str(), window.start_us));
            view.of_newest += 1;
            view.has += u64::from(has.is_some_and(|has| has.revision >= window.published));
            view.refused += has.map_or(0, |has| has.refused.iter().map(|(_, rows)| rows).sum());
        }
        out.push(view);
    }
    Ok(out)
}

async fn of_letters(
    sources: &Sources,
    sink: &Named,
    fed: BTreeMap<ShardId, LetterFeed>,
    run: Option<&SinkStatus>,
) -> Result<Vec<SinkView>> {
    let view = |shard: &ShardId, epoch: u64| SinkView {
        sink: sink.name.clone(),
        of: format!("letters/{shard}"),
        has: fed.get(shard).map_or(0, |fed| fed.epoch),
        of_newest: epoch,
        letters: Some(fed.get(shard).map_or(0, |fed| fed.sent)),
        refused: fed.get(shard).map_or(0, |fed| fed.refused),
        run: run.cloned(),
    };
    Ok(sources.rows.shards().await?.iter().map(|row| view(&row.shard, row.epoch)).collect())
}

/// The list as columns.
pub fn batch(views: &[SinkView]) -> Result<RecordBatch> {
    let text = |of: &dyn Fn(&SinkView) -> Option<String>| -> ArrayRef { Arc::new(views.iter().map(of).collect::<StringArray>()) };
    let number = |of: &dyn Fn(&SinkView) -> Option<u64>| -> ArrayRef {
        let clamped = views.iter().map(|view| of(view).map(|n| i64::try_from(n).unwrap_or(i64::MAX)));
        Arc::new(clamped.collect::<Int64Array>())
    };
    let run = |view: &SinkView| view.run.clone();
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("sink", text(&|view| Some(view.sink.clone()))),
        ("of", text(&|view| Some(view.of.clone()))),
        ("has", number(&|view| Some(view.has))),
        ("of_newest", number(&|view| Some(view.of_newest))),
        ("letters", number(&|view| view.letters)),
        ("refused", number(&|view| Some(view.refused))),
        ("run_state", text(&|view| run(view).map(|run| run.state))),
        ("waiting", number(&|view| run(view).map(|run| run.waiting))),
        ("lag_ms", number(&|view| run(view).map(|run| run.lag_ms))),
        ("last_fault", text(&|view| run(view).and_then(|run| run.last_fault))),
    ];
    let fields = columns.iter().map(|(name, column)| Field::new(*name, DataType::clone(column.data_type()), true));
    let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    RecordBatch::try_new(schema, columns.into_iter().map(|(_, column)| column).collect())
        .map_err(|error| Fault::caused(Kind::Bug, "sinks as columns", &error))
}

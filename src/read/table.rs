//! Tables over published files, as DataFusion sees them.
//!
//! [`FileTable`] lists its folder when it is scanned, drops files by their Hive folders and reads each file through one handle,
//! so it fits files that are replaced while they are read (Gold) and formats that DataFusion is built without. [`LedgerTable`]
//! walks the chains. Owns: these providers. Does not own: which tables there are (query).

use std::fmt;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::{DFSchema, DataFusionError, cast::as_boolean_array};
use datafusion::datasource::TableType;
use datafusion::datasource::listing::helpers::expr_applicable_for_cols;
use datafusion::error::Result as DfResult;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, utils::conjunction};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::stream::RecordBatchReceiverStreamBuilder;
use datafusion::physical_plan::streaming::{PartitionStream, StreamingTableExec};
use sluicebox_actors::model::fault::{Fault, Result};

use super::chain::Chain;
use super::sources::{Sources, Visible, visible};
use super::{files, ledger_rows, letter_rows};

/// What a file's lines are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Content {
    /// Rows in columns.
    Rows,
    /// Dead letters.
    Letters,
}

/// A folder of files as a table.
#[derive(Debug)]
pub struct FileTable {
    sources: Sources,
    folder: String,
    content: Content,
    file_schema: SchemaRef,
    keys: Vec<String>,
    schema: SchemaRef,
    parts: usize,
}

impl FileTable {
    /// `keys` are the Hive folders that become text columns after the files' own; one that a file has itself is left out.
    /// `parts` files are read at the same time.
    pub fn new(sources: Sources, folder: String, content: Content, file_schema: &Schema, keys: &[&str], parts: usize) -> Self {
        let file_schema = files::nullable(file_schema);
        let keys: Vec<String> =
            keys.iter().filter(|key| file_schema.column_with_name(key).is_none()).map(|key| (*key).to_owned()).collect();
        let schema = with_keys(&file_schema, &keys);
        Self { sources, folder, content, file_schema, keys, schema, parts }
    }

    /// The files that a filter over Hive folders leaves.
    fn pruned(&self, state: &dyn Session, filters: &[Expr]) -> DfResult<Vec<Visible>> {
        let mut all = visible(&self.sources.data, &self.folder).map_err(external)?;
        if self.content == Content::Rows {
            all.retain(|file| files::Format::of(&file.relative).is_some());
        }
        let Some(filter) = conjunction(filters.iter().cloned()) else { return Ok(all) };
        let schema = with_keys(&Arc::new(Schema::empty()), &self.keys);
        let values =
            self.keys.iter().map(|key| -> ArrayRef { Arc::new(all.iter().map(|file| file.value(key)).collect::<StringArray>()) });
        let options = RecordBatchOptions::new().with_row_count(Some(all.len()));
        let batch = RecordBatch::try_new_with_options(schema.clone(), values.collect(), &options)?;
        let filter = state.create_physical_expr(filter, &DFSchema::try_from(schema)?)?;
        let keep = filter.evaluate(&batch)?.into_array(all.len())?;
        let keep = as_boolean_array(&keep)?;
        let kept = all.into_iter().zip(keep.iter()).filter(|(_, keep)| *keep == Some(true));
        Ok(kept.map(|(file, _)| file).collect())
    }
}

fn with_keys(schema: &SchemaRef, keys: &[String]) -> SchemaRef {
    let mut fields: Vec<Arc<Field>> = schema.fields().iter().cloned().collect();
    fields.extend(keys.iter().map(|key| Arc::new(Field::new(key, DataType::Utf8, true))));
    Arc::new(Schema::new(fields))
}

#[async_trait]
impl TableProvider for FileTable {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> DfResult<Arc<dyn ExecutionPlan>> {
        let schema = match projection {
            Some(projection) => Arc::new(self.schema.project(projection)?),
            None => self.schema.clone(),
        };
        let mut groups: Vec<Vec<Visible>> = vec![Vec::new(); self.parts.max(1)];
        for (index, file) in self.pruned(state, filters)?.into_iter().enumerate() {
            groups[index % self.parts.max(1)].push(file);
        }
        let streams = groups.into_iter().map(|files| -> Arc<dyn PartitionStream> {
            Arc::new(FileStream {
                files,
                content: self.content,
                file_schema: self.file_schema.clone(),
                keys: self.keys.clone(),
                schema: schema.clone(),
            })
        });
        let exec = StreamingTableExec::try_new(schema.clone(), streams.collect(), None, None, false, limit)?;
        Ok(Arc::new(exec))
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> DfResult<Vec<TableProviderFilterPushDown>> {
        let keys: Vec<&str> = self.keys.iter().map(String::as_str).collect();
        Ok(filters
            .iter()
            .map(|filter| {
                if !keys.is_empty() && expr_applicable_for_cols(&keys, filter) {
                    TableProviderFilterPushDown::Exact
                } else {
                    TableProviderFilterPushDown::Unsupported
                }
            })
            .collect())
    }
}

/// Reads its files one after the other on a blocking thread; at most two batches wait for the reader.
#[derive(Debug)]
struct FileStream {
    files: Vec<Visible>,
    content: Content,
    file_schema: SchemaRef,
    keys: Vec<String>,
    schema: SchemaRef,
}

impl FileStream {
    fn read(&self, file: &Visible, send: &mut dyn FnMut(RecordBatch) -> Result<bool>) -> Result<bool> {
        let mut go_on = true;
        let mut finish = |batch: &RecordBatch| -> Result<bool> {
            let batch = self.finished(batch, file).map_err(|error| Fault::bug(format!("a scan's columns: {error}")))?;
            go_on = send(batch)?;
            Ok(go_on)
        };
        match self.content {
            Content::Letters => letter_rows::each_batch(&file.path, &mut |batch| finish(&batch))?,
            Content::Rows => {
                let own = self.file_schema.fields().iter().filter(|field| self.schema.column_with_name(field.name()).is_some());
                let wanted = Arc::new(Schema::new(own.cloned().collect::<Vec<_>>()));
                for batch in files::open(&file.path, &wanted)? {
                    if !finish(&batch?)? {
                        break;
                    }
                }
            }
        }
        Ok(go_on)
    }

    /// Adds the folders' values and puts the columns in the scan's order.
    fn finished(&self, batch: &RecordBatch, file: &Visible) -> DfResult<RecordBatch> {
        let columns = self.schema.fields().iter().map(|field| -> DfResult<ArrayRef> {
            if self.keys.contains(field.name()) {
                let value = file.value(field.name());
                return Ok(Arc::new((0..batch.num_rows()).map(|_| value.as_deref()).collect::<StringArray>()));
            }
            let missing = || DataFusionError::Internal(format!("no column {}", field.name()));
            batch.column_by_name(field.name()).cloned().ok_or_else(missing)
        });
        let columns = columns.collect::<DfResult<Vec<_>>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        Ok(RecordBatch::try_new_with_options(self.schema.clone(), columns, &options)?)
    }
}

impl PartitionStream for FileStream {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        let mut builder = RecordBatchReceiverStreamBuilder::new(self.schema.clone(), 2);
        let sender = builder.tx();
        let this = Self {
            files: self.files.clone(),
            content: self.content,
            file_schema: self.file_schema.clone(),
            keys: self.keys.clone(),
            schema: self.schema.clone(),
        };
        builder.spawn_blocking(move || {
            for file in &this.files {
                // A reader that has gone away is not an error: it has seen enough.
                if !this.read(file, &mut |batch| Ok(sender.blocking_send(Ok(batch)).is_ok())).map_err(external)? {
                    break;
                }
            }
            Ok(())
        });
        builder.build()
    }
}

/// The table `ledger`.
#[derive(Debug)]
pub struct LedgerTable {
    sources: Sources,
    schema: SchemaRef,
}

impl LedgerTable {
    /// Over all shards.
    pub fn new(sources: Sources) -> Self {
        Self { sources, schema: ledger_rows::schema() }
    }
}

#[async_trait]
impl TableProvider for LedgerTable {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        _: &dyn Session,
        projection: Option<&Vec<usize>>,
        _: &[Expr],
        limit: Option<usize>,
    ) -> DfResult<Arc<dyn ExecutionPlan>> {
        let stream: Arc<dyn PartitionStream> =
            Arc::new(LedgerStream { sources: self.sources.clone(), schema: self.schema.clone() });
        let exec = StreamingTableExec::try_new(self.schema.clone(), vec![stream], projection, None, false, limit)?;
        Ok(Arc::new(exec))
    }
}

struct LedgerStream {
    sources: Sources,
    schema: SchemaRef,
}

impl fmt::Debug for LedgerStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LedgerStream")
    }
}

impl PartitionStream for LedgerStream {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        let mut builder = RecordBatchReceiverStreamBuilder::new(self.schema.clone(), 2);
        let (sender, sources) = (builder.tx(), self.sources.clone());
        builder.spawn(async move {
            for row in sources.rows.shards().await.map_err(external)? {
                let mut chain = Chain::open(&sources, &row, 0).await.map_err(external)?;
                while let Some(batch) = ledger_rows::next_batch(&mut chain, &row.shard).await.map_err(external)? {
                    if sender.send(Ok(batch)).await.is_err() {
                        return Ok(());
                    }
                }
            }
            Ok(())
        });
        builder.build()
    }
}

/// A fault on its way through DataFusion; [`fault_of`] takes it out again.
pub fn external(fault: Fault) -> DataFusionError {
    DataFusionError::External(Box::new(fault))
}

/// The fault that one of our tables raised, if the error comes from there.
pub fn fault_of(error: &DataFusionError) -> Option<&Fault> {
    if let DataFusionError::External(inner) = error.find_root() { inner.downcast_ref::<Fault>() } else { None }
}

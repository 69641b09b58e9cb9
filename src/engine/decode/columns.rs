//! Column builders: checked values become Arrow arrays.
//!
//! Owns: one builder per column of the contract, structs recursively. Does not own: whether a value belongs there (check); by the
//! time a row is appended nothing can fail.

use std::sync::Arc;

use arrow::array::builder::{BooleanBuilder, Decimal128Builder, Float64Builder, Int64Builder, NullBufferBuilder, StringBuilder};
use arrow::array::{Array, ArrayRef, StructArray};
use arrow::datatypes::Fields;
use arrow::error::ArrowError;

use super::row::{Row, Slot};
use crate::engine::contract::shape::Layout;
use crate::engine::contract::struct_fields;

/// Builds one column.
pub(crate) enum Builder {
    Text(usize, StringBuilder),
    Integer(usize, Int64Builder),
    Float(usize, Float64Builder),
    Decimal(usize, u8, Decimal128Builder),
    Boolean(usize, BooleanBuilder),
    Struct(usize, Fields, Vec<Builder>, NullBufferBuilder),
}

impl Builder {
    pub(crate) fn new(layout: &Layout, rows: usize) -> Self {
        match layout {
            Layout::Text(slot) => Self::Text(*slot, StringBuilder::with_capacity(rows, rows * 16)),
            Layout::Integer(slot) => Self::Integer(*slot, Int64Builder::with_capacity(rows)),
            Layout::Float(slot) => Self::Float(*slot, Float64Builder::with_capacity(rows)),
            Layout::Decimal(slot, scale) => Self::Decimal(*slot, *scale, Decimal128Builder::with_capacity(rows)),
            Layout::Boolean(slot) => Self::Boolean(*slot, BooleanBuilder::with_capacity(rows)),
            Layout::Struct(slot, fields, rest) => {
                let named = fields.iter().map(|(_, layout)| Self::new(layout, rows));
                let rest_column = rest.iter().map(|slot| Self::new(&Layout::Text(*slot), rows));
                let builders = named.chain(rest_column).collect();
                Self::Struct(*slot, struct_fields(fields, rest.is_some()), builders, NullBufferBuilder::new(rows))
            }
        }
    }

    /// Appends this column's value of a checked row; empty slots are null.
    pub(crate) fn append(&mut self, row: &Row, record: &str) {
        match self {
            Self::Text(slot, builder) => builder.append_option(row.text(row.get(*slot), record)),
            Self::Integer(slot, builder) => builder.append_option(row.get(*slot).integer()),
            Self::Float(slot, builder) => builder.append_option(row.get(*slot).float()),
            Self::Decimal(slot, _, builder) => builder.append_option(row.get(*slot).decimal()),
            Self::Boolean(slot, builder) => builder.append_option(row.get(*slot).boolean()),
            // Under a null struct every slot is empty, so its fields append null.
            Self::Struct(slot, _, builders, present) => {
                present.append(row.get(*slot) == Slot::Present);
                for builder in builders {
                    builder.append(row, record);
                }
            }
        }
    }

    pub(crate) fn finish(self) -> Result<ArrayRef, ArrowError> {
        Ok(match self {
            Self::Text(_, mut builder) => Arc::new(builder.finish()),
            Self::Integer(_, mut builder) => Arc::new(builder.finish()),
            Self::Float(_, mut builder) => Arc::new(builder.finish()),
            Self::Decimal(_, scale, mut builder) => Arc::new(builder.finish().with_precision_and_scale(18, scale as i8)?),
            Self::Boolean(_, mut builder) => Arc::new(builder.finish()),
            Self::Struct(_, fields, builders, mut present) => {
                let arrays = builders.into_iter().map(Self::finish).collect::<Result<Vec<_>, _>>()?;
                let rows = arrays.first().map_or(0, Array::len);
                Arc::new(StructArray::try_new_with_length(fields, arrays, present.finish(), rows)?)
            }
        })
    }
}

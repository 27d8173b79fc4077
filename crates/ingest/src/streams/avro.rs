//! Messages of one Avro schema, decoded by arrow's own reader.

use std::path::Path;

use arrow_avro::reader::{Decoder, ReaderBuilder};
use arrow_avro::schema::{AvroSchema, Fingerprint, FingerprintAlgorithm, SchemaStore};
use catchment_core::Result;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;

use crate::streams::decode::{Framing, Messages};
use crate::streams::options::invalid;

/// What the reader expects before a message: that a schema follows by its fingerprint.
const MARK: [u8; 2] = [0xc3, 0x01];

/// Decodes messages of a schema.
#[derive(Debug)]
pub(crate) struct AvroCodec {
    store: SchemaStore,
    fingerprint: u64,
    schema: SchemaRef,
    framing: Framing,
}

impl AvroCodec {
    pub(super) fn new(file: &Path, framing: Framing) -> Result<Self> {
        let wrong = |why: String| invalid(format!("schemaFile {}: {why}", file.display()));
        let text = std::fs::read_to_string(file).map_err(|error| wrong(error.to_string()))?;
        let avro = AvroSchema::new(text);
        let fingerprint = match avro.fingerprint(FingerprintAlgorithm::Rabin) {
            Ok(Fingerprint::Rabin(fingerprint)) => fingerprint,
            Ok(_) => return Err(wrong("has no fingerprint".to_owned())),
            Err(error) => return Err(wrong(error.to_string())),
        };
        let mut store = SchemaStore::new();
        store.register(avro).map_err(|error| wrong(error.to_string()))?;
        let schema = decoder(&store, fingerprint, 1).map_err(wrong)?.schema();
        Ok(Self { store, fingerprint, schema, framing })
    }
}

fn decoder(store: &SchemaStore, fingerprint: u64, rows: usize) -> Result<Decoder, String> {
    ReaderBuilder::new()
        .with_writer_schema_store(store.clone())
        .with_active_fingerprint(Fingerprint::Rabin(fingerprint))
        .with_batch_size(rows)
        .build_decoder()
        .map_err(|error| error.to_string())
}

impl Messages for AvroCodec {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn rows(&self, messages: &[&[u8]]) -> Result<RecordBatch, String> {
        let mut decoder = decoder(&self.store, self.fingerprint, messages.len())?;
        let mut framed = Vec::new();
        for message in messages {
            framed.clear();
            framed.extend_from_slice(&MARK);
            framed.extend_from_slice(&self.fingerprint.to_le_bytes());
            framed.extend_from_slice(self.framing.strip(message)?);
            match decoder.decode(&framed) {
                Ok(taken) if taken == framed.len() => {}
                Ok(_) => return Err("the message is shorter or longer than its schema says".to_owned()),
                Err(error) => return Err(error.to_string()),
            }
        }
        match decoder.flush() {
            Ok(Some(rows)) if rows.num_rows() == messages.len() => Ok(rows),
            Ok(_) => Err("the message is shorter than its schema says".to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }
}

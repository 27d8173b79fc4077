//! Where a project's lake lies: in a folder, or in a bucket of an object store.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use catchment_core::{Clock, Code, Error, Faults, Result};
use catchment_lake::{Lake, open_bucket};
use catchment_sql::Sessions;
use object_store::aws::AmazonS3ConfigKey;
use object_store::azure::AzureConfigKey;
use object_store::gcp::GoogleConfigKey;
use object_store::{ObjectStore, ObjectStoreScheme};
use url::{Position, Url};

use crate::config::LoadedConfig;

/// What the machine gives to a project.
pub struct Machine {
    /// Its clock.
    pub clock: Arc<dyn Clock>,
    /// Where it is made to fail, for tests.
    pub faults: Arc<dyn Faults>,
    /// Variables of the environment that object stores know, such as `AWS_ACCESS_KEY_ID`.
    pub variables: BTreeMap<String, String>,
    /// Any variable of the environment, for what the configuration names as `${env:NAME}`.
    pub variable: fn(&str) -> Option<String>,
}

/// Words in the names of options that hold secrets.
const SECRET: &[&str] =
    &["secret", "password", "token", "access_key", "account_key", "customer_key", "sas", "credential"];

/// Opens the lake that the configuration names.
pub(crate) fn open_lake(
    config: &LoadedConfig,
    machine: &Machine,
    sessions: &Sessions,
    scratch: PathBuf,
) -> Result<Arc<Lake>> {
    let (clock, faults) = (Arc::clone(&machine.clock), Arc::clone(&machine.faults));
    let storage = &config.config.storage;
    if !storage.lake.contains("://") {
        if let Some(key) = storage.options.keys().next() {
            return Err(invalid(format!("storage.options.{key} is for a lake in an object store"))
                .hint("storage.lake names a folder; write a URL such as s3://bucket/lake"));
        }
        return Lake::open(&config.folder.join(&storage.lake), clock, faults);
    }
    let url = Url::parse(&storage.lake).map_err(|error| {
        invalid(format!("storage.lake is {:?}, which is no URL", storage.lake)).because(error)
    })?;
    let scheme = ObjectStoreScheme::parse(&url).map(|(scheme, _)| scheme).map_err(|error| {
        invalid(format!("storage.lake is {:?}", storage.lake))
            .because(error)
            .hint("write a folder, s3://bucket/lake, gs://bucket/lake or az://container/lake")
    })?;
    require_plain(&url, &storage.lake)?;
    for (key, value) in &storage.options {
        require_option(&scheme, key, value)?;
    }
    let options = storage.options.clone().into_iter().collect();
    let (store, root) = open_bucket(&url, &machine.variables, options)
        .map_err(|error| invalid(format!("lake {:?} cannot be opened", storage.lake)).because(error))?;
    let bucket = Url::parse(&url[..Position::BeforePath])
        .map_err(|error| invalid(format!("storage.lake is {:?}", storage.lake)).because(error))?;
    let lake = Lake::open_remote(bucket.clone(), root, store, scratch, clock, faults);
    sessions.register_store(&bucket, Arc::clone(lake.store()) as Arc<dyn ObjectStore>);
    Ok(lake)
}

/// Makes sure that all of a URL means something, and that nothing of it is secret.
fn require_plain(url: &Url, text: &str) -> Result<()> {
    if !url.username().is_empty() || url.password().is_some() {
        return Err(invalid("storage.lake holds a name or a password".to_owned())
            .hint("leave them out of the file: set variables such as AWS_SECRET_ACCESS_KEY"));
    }
    // What a parser takes for a query, a fragment or a step up would be another lake, silently.
    if url.query().is_some() || url.fragment().is_some() || text.contains("/../") || text.contains("/./") {
        return Err(invalid(format!("storage.lake is {text:?}, which is no plain path in a bucket")));
    }
    Ok(())
}

/// Makes sure that an option is one of the store's, and no secret.
fn require_option(scheme: &ObjectStoreScheme, key: &str, value: &str) -> Result<()> {
    if key.to_lowercase().ends_with("endpoint") {
        let endpoint =
            Url::parse(value).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
        let Some(endpoint) = endpoint else {
            return Err(invalid(format!("storage.options.{key} is {value:?}, which is no URL"))
                .hint("write it with its scheme, such as https://s3.example.com"));
        };
        require_plain(&endpoint, "")?;
    }
    let is_known = match scheme {
        ObjectStoreScheme::AmazonS3 => AmazonS3ConfigKey::from_str(key).is_ok(),
        ObjectStoreScheme::GoogleCloudStorage => GoogleConfigKey::from_str(key).is_ok(),
        ObjectStoreScheme::MicrosoftAzure => AzureConfigKey::from_str(key).is_ok(),
        _ => {
            return Err(invalid("storage.lake is in a store that a lake cannot be kept in".to_owned())
                .hint("write a folder, s3://bucket/lake, gs://bucket/lake or az://container/lake"));
        }
    };
    if !is_known {
        return Err(invalid(format!("storage.options.{key} is no option of the lake's store"))
            .hint("such as endpoint, region and allow_http for S3"));
    }
    if is_secret(key) {
        return Err(invalid(format!("storage.options.{key} holds a secret"))
            .hint("leave it out of the file: set a variable such as AWS_SECRET_ACCESS_KEY"));
    }
    Ok(())
}

/// Whether an option holds a secret, by its name.
pub(crate) fn is_secret(key: &str) -> bool {
    SECRET.iter().any(|word| key.to_lowercase().contains(word))
}

fn invalid(what: String) -> Error {
    Error::new(Code::CONFIG_INVALID, what)
}

//! `boto3`, the S3 client that most applications are written with: what it puts on an object, and what
//! it sees there afterwards.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};

use super::moto::python;
use super::s3server::TestS3;

/// Calls what standard input names, a line each; bodies are base64.
const PROGRAM: &str = "
import base64, json, sys
import boto3, botocore
from botocore.config import Config
config = Config(s3={'addressing_style': 'path'}, retries={'max_attempts': 1},
                request_checksum_calculation='when_required')
s3 = boto3.client('s3', endpoint_url=sys.argv[1], region_name=sys.argv[2], config=config)
for line in sys.stdin:
    call, args = json.loads(line)
    if 'Body' in args:
        args['Body'] = base64.b64decode(args['Body'])
    try:
        answer = getattr(s3, call)(**args)
        answer['Headers'] = answer.pop('ResponseMetadata')['HTTPHeaders']
        if 'Body' in answer:
            answer['Body'] = base64.b64encode(answer['Body'].read()).decode()
    except botocore.exceptions.ClientError as error:
        answer = {'Refused': str(error)}
    print(json.dumps(answer, default=str), flush=True)
";

/// A client that runs until it is dropped.
pub struct Boto {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
    bucket: String,
}

impl Boto {
    pub fn new(server: &TestS3) -> Self {
        let mut child = Command::new(python())
            .args(["-c", PROGRAM, &server.endpoint(), server.region()])
            .envs(server.env())
            .env_remove("AWS_CA_BUNDLE")
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .env("NO_PROXY", "*")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the Python of moto");
        let to = child.stdin.take().expect("a pipe");
        let from = BufReader::new(child.stdout.take().expect("a pipe"));
        Boto { child, to, from, bucket: server.bucket().to_owned() }
    }

    /// The answer of any call, or `Refused`.
    pub fn ask(&mut self, call: &str, key: &str, mut args: Value) -> Value {
        args["Bucket"] = json!(self.bucket);
        args["Key"] = json!(key);
        writeln!(self.to, "{}", json!([call, args])).expect("boto3 listens");
        let mut line = String::new();
        self.from.read_line(&mut line).expect("boto3 answers");
        serde_json::from_str(&line).unwrap_or_else(|e| panic!("{call} {key}: {e}: {line:?}"))
    }

    /// The answer of a call that succeeds.
    pub fn call(&mut self, call: &str, key: &str, args: Value) -> Value {
        let answer = self.ask(call, key, args);
        assert!(answer.get("Refused").is_none(), "{call} {key}: {answer}");
        answer
    }

    /// Puts an object; `args` as `put_object` takes them.
    pub fn put(&mut self, key: &str, body: &[u8], mut args: Value) {
        args["Body"] = json!(BASE64.encode(body));
        self.call("put_object", key, args);
    }

    /// All that lies on an object for applications: headers, foreign metadata, tags; without our own
    /// marks and attributes and without what belongs to its bytes.
    pub fn bears(&mut self, key: &str) -> BTreeMap<String, String> {
        const OURS: [&str; 7] = ["mode", "uid", "gid", "mtime", "xattr", "rdev", "s3vol"];
        let head = self.call("head_object", key, json!({}));
        let tags = self.call("get_object_tagging", key, json!({}));
        let mut bears = BTreeMap::new();
        for (name, value) in head["Headers"].as_object().expect("headers") {
            let value = value.as_str().expect("text").to_owned();
            let meta = name.strip_prefix("x-amz-meta-");
            let kept = match meta {
                Some(name) => !OURS.iter().any(|ours| name.starts_with(ours)),
                None => {
                    name.starts_with("content-") && name != "content-length"
                        || ["cache-control", "expires"].contains(&name.as_str())
                        || name.starts_with("x-amz-website")
                        || name.starts_with("x-amz-storage-class")
                        || name.starts_with("x-amz-server-side")
                }
            };
            if kept {
                bears.insert(name.clone(), value);
            }
        }
        for tag in tags["TagSet"].as_array().expect("tags") {
            let text = |name: &str| tag[name].as_str().expect("text").to_owned();
            bears.insert(format!("tag {}", text("Key")), text("Value"));
        }
        bears
    }
}

impl Drop for Boto {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

"""What another client puts on an object and sees of it: `boto.py ENDPOINT BUCKET put|show KEY`."""

import datetime
import json
import sys

import boto3
from botocore.config import Config

endpoint, bucket, key_id, secret, verb, key = sys.argv[1:]
s3 = boto3.client(
    "s3",
    endpoint_url=endpoint,
    region_name="us-east-1",
    aws_access_key_id=key_id,
    aws_secret_access_key=secret,
    config=Config(s3={"addressing_style": "path"}, retries={"max_attempts": 1}),
)
if verb == "put":
    s3.put_object(
        Bucket=bucket,
        Key=key,
        Body=b"<html>",
        ContentType="text/html; charset=utf-8",
        CacheControl="max-age=60, public",
        ContentDisposition='attachment; filename="a b.html"',
        ContentEncoding="gzip",
        ContentLanguage="de, en",
        Expires=datetime.datetime(2037, 10, 21, 7, 28, tzinfo=datetime.timezone.utc),
        WebsiteRedirectLocation="/other",
        Metadata={"my-key.2": "a  b=c", "plain": "v"},
        Tagging="team=web&a%20b=c%2Bd%3De",
        StorageClass="STANDARD_IA",
        ServerSideEncryption="aws:kms",
        SSEKMSKeyId="arn:aws:kms:us-east-1:123456789012:key/one",
    )
head = s3.head_object(Bucket=bucket, Key=key)
tags = s3.get_object_tagging(Bucket=bucket, Key=key)["TagSet"]
http = head["ResponseMetadata"]["HTTPHeaders"]
names = [
    "content-type", "cache-control", "content-disposition", "content-encoding", "content-language",
    "expires", "x-amz-website-redirect-location", "x-amz-storage-class",
    "x-amz-server-side-encryption", "x-amz-server-side-encryption-aws-kms-key-id",
]
print(json.dumps({
    "headers": {name: http[name] for name in names if name in http},
    "metadata": head["Metadata"],
    "tags": {tag["Key"]: tag["Value"] for tag in tags},
    "tag_count": http.get("x-amz-tagging-count"),
}))

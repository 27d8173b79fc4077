// Uses a Kinesis endpoint with AWS's JavaScript client, which subscribes by HTTP/2. Arguments: endpoint, access key, secret.
import { createRequire } from "node:module";

const require = createRequire(process.env.CATCHMENT_TEST_NODE + "/node_modules/");
const sdk = require("@aws-sdk/client-kinesis");
const [endpoint, accessKeyId, secretAccessKey] = process.argv.slice(2);
const client = new sdk.KinesisClient({ endpoint, region: "us-east-1", credentials: { accessKeyId, secretAccessKey } });
const StreamName = "from-node";
await client.send(new sdk.CreateStreamCommand({ StreamName, ShardCount: 1 }));
const encode = (text) => new TextEncoder().encode(text);
await client.send(new sdk.PutRecordCommand({ StreamName, PartitionKey: "a", Data: encode("one") }));
await client.send(new sdk.PutRecordsCommand({ StreamName, Records: [{ PartitionKey: "b", Data: encode("two") }] }));
const { StreamDescription } = await client.send(new sdk.DescribeStreamCommand({ StreamName }));
const { Consumer } = await client.send(
  new sdk.RegisterStreamConsumerCommand({ StreamARN: StreamDescription.StreamARN, ConsumerName: "node" }),
);
const ShardId = StreamDescription.Shards[0].ShardId;
const { EventStream } = await client.send(
  new sdk.SubscribeToShardCommand({ ConsumerARN: Consumer.ConsumerARN, ShardId, StartingPosition: { Type: "TRIM_HORIZON" } }),
);
const found = [];
let late = false;
for await (const event of EventStream) {
  for (const record of event.SubscribeToShardEvent?.Records ?? []) found.push(new TextDecoder().decode(record.Data));
  if (found.length === 2 && !late) {
    // A record that comes later is pushed as well.
    late = true;
    await client.send(new sdk.PutRecordCommand({ StreamName, PartitionKey: "c", Data: encode("three") }));
  }
  if (found.length === 3) break;
}
console.log(found.join(" "));
process.exit(0);

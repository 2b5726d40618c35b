-- Apply what one batch adds to one tenant, once. Returns 1 if it was applied, 0 if it had been before.
--
-- KEYS[1] remembers which batches of the source were applied for this tenant: 16 digits, the base, a multiple
-- of 8, and behind them a bitmap whose bit i stands for the batch base + i. Everything below the base has been
-- applied. Batches may come in any order and any number of times; the bitmap tells each from the others. It is
-- cut at the front as the source's floor rises: the floor (ARGV[2]) is the highest batch up to which all were
-- applied for all tenants, so a batch at or below it has been applied here, or had nothing for this tenant.
--
-- KEYS: 1 window; hour, day, month; 5 hour by agent, by channel; 7 day by agent, by channel;
--       9 day's agents, channels; 11 month's agents, channels
-- ARGV: seq, floor, lifetime of the window (ms), expiry of hour, day, month (epoch s), MessagePack of
--       {totals, by agent, by channel, agent ids, channel ids}
local HEADER, CUT, CHUNK = 16, 2048, 1000
local window = KEYS[1]
local seq, floor = tonumber(ARGV[1]), tonumber(ARGV[2])
local base = tonumber(redis.call('GETRANGE', window, 0, HEADER - 1))

if base and (seq <= floor or seq < base) then
  -- Written even so: WAITAOF waits for the client's last write, and this one comes after the one that counted.
  redis.call('PEXPIRE', window, ARGV[3])
  return 0
end

local target = floor + 1 - (floor + 1) % 8
if not base then
  base = target
  redis.call('SET', window, string.format('%016d', base))
elseif target - base >= CUT then
  local rest = redis.call('GETRANGE', window, HEADER + (target - base) / 8, -1)
  redis.call('SET', window, string.format('%016d', target) .. rest)
  base = target
end

local before = 1
if seq > floor then
  before = redis.call('SETBIT', window, HEADER * 8 + seq - base, 1)
end
redis.call('PEXPIRE', window, ARGV[3])
if before == 1 then
  return 0
end

local function increment(key, additions, expiry)
  if #additions == 0 then
    return
  end
  for i = 1, #additions, 2 do
    redis.call('HINCRBY', key, additions[i], additions[i + 1])
  end
  redis.call('EXPIREAT', key, expiry, 'NX')
end

local function include(key, ids, expiry)
  if #ids == 0 then
    return
  end
  for i = 1, #ids, CHUNK do
    redis.call('SADD', key, unpack(ids, i, math.min(i + CHUNK - 1, #ids)))
  end
  redis.call('EXPIREAT', key, expiry, 'NX')
end

local added = cmsgpack.unpack(ARGV[7])
local totals, agents, channels, agent_ids, channel_ids = added[1], added[2], added[3], added[4], added[5]
increment(KEYS[2], totals, ARGV[4])
increment(KEYS[3], totals, ARGV[5])
increment(KEYS[4], totals, ARGV[6])
increment(KEYS[5], agents, ARGV[4])
increment(KEYS[6], channels, ARGV[4])
increment(KEYS[7], agents, ARGV[5])
increment(KEYS[8], channels, ARGV[5])
include(KEYS[9], agent_ids, ARGV[5])
include(KEYS[10], channel_ids, ARGV[5])
include(KEYS[11], agent_ids, ARGV[6])
include(KEYS[12], channel_ids, ARGV[6])
return 1

-- Apply what one batch adds to one tenant, once. Returns 1 if it was applied, 0 if it had been before.
--
-- KEYS[1] remembers which batches of the source were applied for this tenant: 16 digits, the base, a
-- multiple of 8, and behind them a bitmap whose bit i stands for the batch base + i. Everything below the
-- base has been applied. Batches may come in any order and any number of times; the bitmap tells each from
-- the others. It is cut at the front as the source's floor rises: the floor (ARGV[2]) is the highest batch
-- up to which all were applied for all tenants, so a batch at or below it has been applied here, or had
-- nothing for this tenant.
--
-- KEYS: 1 window; hour, day, month; 5 hour by agent, by channel; 7 day by agent, by channel;
--       9 day's agents, channels; 11 month's agents, channels
-- ARGV: seq, floor, lifetime of the window (ms), expiry of hour, day, month (epoch s), MessagePack of
--       {totals, by agent, by channel, agent ids, channel ids}
local HEADER, CUT, CHUNK = 16, 2048, 1000
local HASH, SET = 'hash', 'set'
local window = KEYS[1]
local seq, floor = tonumber(ARGV[1]), tonumber(ARGV[2])
local base = tonumber(redis.call('GETRANGE', window, 0, HEADER - 1))

if base and (seq <= floor or seq < base) then
  -- Written even so: WAITAOF waits for the client's last write, and this one comes after the one that
  -- counted.
  redis.call('PEXPIRE', window, ARGV[3])
  return 0
end

-- A script that fails in the middle is not undone, so whatever could fail is tried before the first write.
local added = cmsgpack.unpack(ARGV[7])
local totals, agents, channels, agent_ids, channel_ids = added[1], added[2], added[3], added[4], added[5]
local parts = {
  {KEYS[2], HASH, totals, ARGV[4]},
  {KEYS[3], HASH, totals, ARGV[5]},
  {KEYS[4], HASH, totals, ARGV[6]},
  {KEYS[5], HASH, agents, ARGV[4]},
  {KEYS[6], HASH, channels, ARGV[4]},
  {KEYS[7], HASH, agents, ARGV[5]},
  {KEYS[8], HASH, channels, ARGV[5]},
  {KEYS[9], SET, agent_ids, ARGV[5]},
  {KEYS[10], SET, channel_ids, ARGV[5]},
  {KEYS[11], SET, agent_ids, ARGV[6]},
  {KEYS[12], SET, channel_ids, ARGV[6]},
}
for _, part in ipairs(parts) do
  if #part[3] > 0 then
    local kind = redis.call('TYPE', part[1]).ok
    if kind ~= 'none' and kind ~= part[2] then
      return redis.error_reply('WRONGTYPE ' .. part[1] .. ' is a ' .. kind)
    end
  end
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

for _, part in ipairs(parts) do
  local key, kind, additions = part[1], part[2], part[3]
  if #additions > 0 then
    if kind == HASH then
      for i = 1, #additions, 2 do
        redis.call('HINCRBY', key, additions[i], additions[i + 1])
      end
    else
      for i = 1, #additions, CHUNK do
        redis.call('SADD', key, unpack(additions, i, math.min(i + CHUNK - 1, #additions)))
      end
    end
    redis.call('EXPIREAT', key, part[4], 'NX')
  end
end
return 1

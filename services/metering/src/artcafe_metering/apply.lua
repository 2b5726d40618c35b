-- Apply what one batch adds to one tenant, once. Returns 1 if it was applied, 0 if it had been before.
--
-- KEYS[1] remembers which batches of the source were applied for this tenant: 16 digits, the base, a
-- multiple of 8, and behind them a bitmap whose bit i stands for the batch base + i. Everything below the
-- base has been applied. Batches may come in any order and any number of times; the bitmap tells each from
-- the others. It is cut at the front as the source's floor rises: the floor (ARGV[2]) is the highest batch
-- up to which all were applied for all tenants, so a batch at or below it has been applied here, or had
-- nothing for this tenant.
--
-- A script that fails in the middle is not undone. So everything is read first, and what is written after
-- that cannot fail.
--
-- KEYS: 1 window; hour, day, month; 5 hour by agent, by channel; 7 day by agent, by channel;
--       9 day's agents, channels; 11 month's agents, channels
-- ARGV: seq, floor, lifetime of the window (ms), expiry of hour, day, month (epoch s); 7 MessagePack of
--       {totals, agent ids, channel ids}, totals as field, increment, ...; 8 figures of the agents, of the
--       channels: six doubles for each id, which is also how they are stored
local HEADER, CUT, CHUNK = 16, 2048, 1000
local FIGURES, SIZE = '<dddddd', 48
-- Up to here every whole number has a double.
local EXACT = 2 ^ 53
local PERSON = 'user:'
local window = KEYS[1]
local seq, floor = tonumber(ARGV[1]), tonumber(ARGV[2])
local base = tonumber(redis.call('GETRANGE', window, 0, HEADER - 1))

if seq <= floor then
  return 0
end
if base and (seq < base or redis.call('GETBIT', window, HEADER * 8 + seq - base) == 1) then
  return 0
end

-- Whether a key is there; whatever has its name and is something else is an error.
local function exists(key, kind)
  local found = redis.call('TYPE', key).ok
  if found ~= 'none' and found ~= kind then
    error('WRONGTYPE ' .. key)
  end
  return found ~= 'none'
end

-- What to write into a hash of totals; what is there and is no number that can grow is an error.
local function grown(key, totals)
  local fields, written = {}, {}
  for i = 1, #totals, 2 do
    fields[#fields + 1] = totals[i]
  end
  local olds = redis.call('HMGET', key, unpack(fields))
  for i = 1, #fields do
    local old = olds[i] or '0'
    local sum = string.find(old, '^%-?%d+$') and tonumber(old) + tonumber(totals[2 * i])
    if not sum or math.abs(sum) > EXACT then
      error('WRONGTYPE ' .. key .. ' ' .. fields[i])
    end
    written[2 * i - 1], written[2 * i] = fields[i], string.format('%.0f', sum)
  end
  return written
end

-- What to write into a hash of ids, and the ids that were not in it.
local function summed(key, ids, figures)
  local written, fresh = {}, {}
  for first = 1, #ids, CHUNK do
    local last = math.min(first + CHUNK - 1, #ids)
    local olds = redis.call('HMGET', key, unpack(ids, first, last))
    for i = first, last do
      local a, b, c, d, e, f = struct.unpack(FIGURES, figures, (i - 1) * SIZE + 1)
      local old, rest = olds[i - first + 1], ''
      if old then
        local a0, b0, c0, d0, e0, f0 = struct.unpack(FIGURES, old)
        a, b, c, d, e, f = a + a0, b + b0, c + c0, d + d0, e + e0, f + f0
        rest = string.sub(old, SIZE + 1)
      else
        fresh[#fresh + 1] = ids[i]
      end
      written[#written + 1] = ids[i]
      written[#written + 1] = struct.pack(FIGURES, a, b, c, d, e, f) .. rest
    end
  end
  return written, fresh
end

local function write(key, written, fresh, expiry)
  for first = 1, #written, 2 * CHUNK do
    redis.call('HSET', key, unpack(written, first, math.min(first + 2 * CHUNK - 1, #written)))
  end
  if #fresh > 0 and 2 * #fresh == #written then
    redis.call('EXPIREAT', key, expiry, 'NX')
  end
end

local function include(key, ids, expiry)
  for first = 1, #ids, CHUNK do
    redis.call('SADD', key, unpack(ids, first, math.min(first + CHUNK - 1, #ids)))
  end
  redis.call('EXPIREAT', key, expiry, 'NX')
end

local added = cmsgpack.unpack(ARGV[7])
local totals, agent_ids, channel_ids = added[1], added[2], added[3]
local known, sums = {}, {}
for i = 2, 4 do
  known[i] = exists(KEYS[i], 'hash')
  sums[i] = #totals > 0 and grown(KEYS[i], totals)
end
local hour_agents, fresh_in_hour = summed(KEYS[5], agent_ids, ARGV[8])
local hour_channels, fresh_channels_in_hour = summed(KEYS[6], channel_ids, ARGV[9])
local day_agents, fresh_agents = summed(KEYS[7], agent_ids, ARGV[8])
local day_channels, fresh_channels = summed(KEYS[8], channel_ids, ARGV[9])
-- Who is in the day's figures already is in its set, and in that of the month.
local active_agents = {}
for _, id in ipairs(fresh_agents) do
  if string.sub(id, 1, #PERSON) ~= PERSON then
    active_agents[#active_agents + 1] = id
  end
end
if #active_agents > 0 then
  exists(KEYS[9], 'set')
  exists(KEYS[11], 'set')
end
if #fresh_channels > 0 then
  exists(KEYS[10], 'set')
  exists(KEYS[12], 'set')
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
redis.call('SETBIT', window, HEADER * 8 + seq - base, 1)
redis.call('PEXPIRE', window, ARGV[3])

if #totals > 0 then
  for i = 2, 4 do
    redis.call('HSET', KEYS[i], unpack(sums[i]))
    if not known[i] then
      redis.call('EXPIREAT', KEYS[i], ARGV[i + 2], 'NX')
    end
  end
end
write(KEYS[5], hour_agents, fresh_in_hour, ARGV[4])
write(KEYS[6], hour_channels, fresh_channels_in_hour, ARGV[4])
write(KEYS[7], day_agents, fresh_agents, ARGV[5])
write(KEYS[8], day_channels, fresh_channels, ARGV[5])
if #active_agents > 0 then
  include(KEYS[9], active_agents, ARGV[5])
  include(KEYS[11], active_agents, ARGV[6])
end
if #fresh_channels > 0 then
  include(KEYS[10], fresh_channels, ARGV[5])
  include(KEYS[12], fresh_channels, ARGV[6])
end
return 1

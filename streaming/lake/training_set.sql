-- The training set: every answer once, with its valid clicks within the attribution window and its latest judgement.
-- Clicks and judgements are joined at each query, so late clicks need no update of stored rows.
--
-- :since_us, :until_us, :first_day, :last_day   time and days of the answers: from the first to before the second
-- :first_us, :first_event_day                   earliest time and day of their clicks and judgements
-- :last_click_us, :last_click_day               latest time and day of their clicks
-- :window_us                                    length of the attribution window in microseconds
--
-- Every table is restricted by time, so that the engine skips files by their statistics.
WITH answers AS (
    SELECT *
    FROM interactions
    WHERE day BETWEEN :first_day AND :last_day
        AND occurred_us >= :since_us
        AND occurred_us < :until_us
),
copies AS (
    -- An event may be in the log twice.
    SELECT
        auction_id,
        log,
        log_partition,
        log_offset,
        row_number() OVER (PARTITION BY auction_id ORDER BY log, log_partition, log_offset) AS copy
    FROM answers
),
first_clicks AS (
    -- A link may be followed again, and its event may arrive twice: the first counts. Clocks of two machines differ, so
    -- a click can seem to precede its answer. Copies of an answer are equal and do not change the minimum.
    SELECT
        clicks.auction_id,
        clicks.ad_id,
        min(clicks.occurred_us - answers.occurred_us) AS after_us
    FROM answers
    INNER JOIN clicks ON clicks.auction_id = answers.auction_id
    WHERE clicks.day BETWEEN :first_event_day AND :last_click_day
        AND clicks.occurred_us BETWEEN :first_us AND :last_click_us
        AND clicks.verdict = 'valid'
        AND clicks.occurred_us - answers.occurred_us <= :window_us
        AND array_contains(answers.shown_ads, clicks.ad_id)
    GROUP BY clicks.auction_id, clicks.ad_id
),
clicked AS (
    SELECT
        auction_id,
        count(*) AS clicked_ads,
        array_sort(array_agg(
            named_struct(
                'ad_id', ad_id,
                'clicked_after_s', CASE WHEN after_us > 0 THEN CAST(after_us AS DOUBLE) / 1000000.0 ELSE 0.0 END
            )
        )) AS clicks
    FROM first_clicks
    GROUP BY auction_id
),
judged AS (
    -- The join with the answers keeps the judgements of other answers from being sorted.
    SELECT
        judgements.auction_id,
        judgements.occurred_at AS judged_at,
        judgements.judge,
        judgements.judge_version,
        judgements.ads AS grades,
        judgements.answer_quality,
        row_number() OVER (
            PARTITION BY judgements.auction_id
            ORDER BY
                judgements.occurred_us DESC,
                judgements.log DESC,
                judgements.log_partition DESC,
                judgements.log_offset DESC
        ) AS age
    FROM answers
    INNER JOIN judgements ON judgements.auction_id = answers.auction_id
    WHERE judgements.day BETWEEN :first_day AND :last_day
        AND judgements.occurred_us >= :first_us
)
SELECT
    answers.*,
    clicked.clicks,
    coalesce(clicked.clicked_ads, 0) AS clicked_ads,
    judged.judged_at,
    judged.judge,
    judged.judge_version,
    judged.grades,
    judged.answer_quality,
    answers.reader IS NOT NULL AND judged.auction_id IS NOT NULL AS usable
FROM answers
INNER JOIN copies ON copies.auction_id = answers.auction_id
    AND copies.log = answers.log
    AND copies.log_partition = answers.log_partition
    AND copies.log_offset = answers.log_offset
LEFT JOIN clicked ON clicked.auction_id = answers.auction_id
LEFT JOIN judged ON judged.auction_id = answers.auction_id AND judged.age = 1
WHERE copies.copy = 1

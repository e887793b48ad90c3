-- The training set: every answer once, with its valid clicks within the attribution window and its latest judgement.
-- Clicks and judgements are joined at each query, so late clicks need no update of stored rows.
--
-- :since_us, :until_us                 microseconds since 1970: answers from the first to before the second
-- :first_day, :last_day                the days of those answers
-- :first_click_day, :last_click_day    the days on which their clicks can have occurred
-- :window_us                           length of the attribution window in microseconds
WITH copies AS (
    -- An event may be in the log twice.
    SELECT
        auction_id,
        log,
        log_partition,
        log_offset,
        row_number() OVER (PARTITION BY auction_id ORDER BY log, log_partition, log_offset) AS copy
    FROM interactions
    WHERE day BETWEEN :first_day AND :last_day
        AND occurred_us >= :since_us
        AND occurred_us < :until_us
),
answers AS (
    SELECT interactions.*
    FROM interactions
    INNER JOIN copies ON interactions.auction_id = copies.auction_id
        AND interactions.log = copies.log
        AND interactions.log_partition = copies.log_partition
        AND interactions.log_offset = copies.log_offset
    WHERE copies.copy = 1
        AND interactions.day BETWEEN :first_day AND :last_day
),
first_clicks AS (
    -- A link may be followed again, and its event may arrive twice: the first counts. Clocks of two machines differ, so
    -- a click can seem to precede its answer.
    SELECT
        clicks.auction_id,
        clicks.ad_id,
        min(clicks.occurred_us - answers.occurred_us) AS after_us
    FROM clicks
    INNER JOIN answers ON clicks.auction_id = answers.auction_id
    WHERE clicks.day BETWEEN :first_click_day AND :last_click_day
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
    SELECT *
    FROM (
        SELECT
            auction_id,
            occurred_at AS judged_at,
            judge,
            judge_version,
            ads AS grades,
            answer_quality,
            row_number() OVER (
                PARTITION BY auction_id ORDER BY occurred_us DESC, log DESC, log_partition DESC, log_offset DESC
            ) AS age
        FROM judgements
        WHERE day BETWEEN :first_day AND :last_day
    ) AS numbered
    WHERE age = 1
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
LEFT JOIN clicked ON answers.auction_id = clicked.auction_id
LEFT JOIN judged ON answers.auction_id = judged.auction_id
